package rabbitmq

import (
	"fmt"
	"slices"
	"sync"

	"github.com/ThreeDotsLabs/watermill"
	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	amqp "github.com/rabbitmq/amqp091-go"
)

// topology remembers what was declared, to declare it again on each new connection.
type topology struct {
	exchange string
	config   wamqp.Config // of exchange and queues, exactly as django-cqrs declares them

	mu       sync.Mutex
	bindings []binding
}

// binding is one queue, one exchange and the routing key between them.
type binding struct {
	wamqp.BuildTopologyParams
	config wamqp.Config
}

func newTopology(exchange, queueType string) *topology {
	config := durableTopic()
	if queueType == queueQuorum {
		config.Queue.Arguments = amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum}
	}
	return &topology{exchange: exchange, config: config}
}

// durableTopic is a durable topic exchange with durable queues and no arguments. Peers that declare the
// same names with anything else get a channel exception.
func durableTopic() wamqp.Config {
	return wamqp.Config{
		Marshaler:       Marshaler{},
		Exchange:        wamqp.ExchangeConfig{Type: amqp.ExchangeTopic, Durable: true},
		Queue:           wamqp.QueueConfig{Durable: true},
		TopologyBuilder: &wamqp.DefaultTopologyBuilder{},
	}
}

func (t *topology) queue(name string, topics []string) []binding {
	bindings := make([]binding, len(topics))
	for i, topic := range topics {
		bindings[i] = binding{
			BuildTopologyParams: wamqp.BuildTopologyParams{
				Topic: topic, RoutingKey: topic, QueueName: name, ExchangeName: t.exchange,
			},
			config: t.config,
		}
	}
	return bindings
}

func (t *topology) has(queue string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.ContainsFunc(t.bindings, func(b binding) bool { return b.QueueName == queue })
}

func (t *topology) remember(bindings []binding) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, b := range bindings {
		known := func(k binding) bool { return k.BuildTopologyParams == b.BuildTopologyParams }
		if !slices.ContainsFunc(t.bindings, known) {
			t.bindings = append(t.bindings, b)
		}
	}
}

// declareAll declares the exchange and everything remembered.
func (t *topology) declareAll(ch *amqp.Channel) error {
	if err := t.config.TopologyBuilder.ExchangeDeclare(ch, t.exchange, t.config); err != nil {
		return fmt.Errorf("declare exchange %q: %w", t.exchange, err)
	}
	t.mu.Lock()
	bindings := slices.Clone(t.bindings)
	t.mu.Unlock()
	return declare(ch, bindings)
}

// declareQueue declares one remembered queue with its bindings.
func (t *topology) declareQueue(ch *amqp.Channel, queue string) error {
	t.mu.Lock()
	bindings := slices.Clone(t.bindings)
	t.mu.Unlock()
	return declare(ch, slices.DeleteFunc(bindings, func(b binding) bool { return b.QueueName != queue }))
}

func declare(ch *amqp.Channel, bindings []binding) error {
	for _, b := range bindings {
		err := b.config.TopologyBuilder.BuildTopology(ch, b.BuildTopologyParams, b.config, watermill.NopLogger{})
		if err != nil {
			return fmt.Errorf("bind queue %q to %q on exchange %q: %w", b.QueueName, b.RoutingKey, b.ExchangeName, withQueueRemedy(err))
		}
	}
	return nil
}
