package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"time"

	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/lockstep-go/lockstep/event"
)

// delayPrefix begins the names of the queues and exchanges that delay messages.
const delayPrefix = "lockstep.delay."

// maxDelay is the longest message TTL that RabbitMQ accepts for a queue.
const maxDelay = maxExpiration * time.Millisecond

// PublishAfter stores msg in RabbitMQ, which itself delivers it on topic after the delay. It returns
// when the storing is confirmed; the message then survives restarts of this process and of the server.
// It blocks for at most ConfirmTimeout, and as long again when a queue for the delay must be declared.
//
// The delay is rounded up to two significant digits of its milliseconds, since each one needs a durable
// queue of its own (named lockstep.delay.<ms>). It cannot exceed 49.7 days. Without a delay the message
// is published at once. Its [event.MetadataTTL] is not used: it would cut the delay short.
// When the delay is over and no queue is bound to the topic, the message is lost.
func (b *Broker) PublishAfter(ctx context.Context, delay time.Duration, topic string, msg *message.Message) error {
	if delay <= 0 {
		return b.publishOne(ctx, b.cfg.Exchange, topic, msg)
	}
	if delay > maxDelay {
		return &RefusedError{
			Topic: topic, UUID: msg.UUID, permanent: true,
			Reason: fmt.Sprintf("a delay of %v is longer than RabbitMQ's %v", delay, maxDelay),
		}
	}
	if _, ok := msg.Metadata[event.MetadataTTL]; ok {
		msg = msg.Copy()
		delete(msg.Metadata, event.MetadataTTL)
	}
	queue := delayQueue(b.cfg.Exchange, delay)
	if !b.topology.has(queue.QueueName) {
		if err := b.declareDelay(ctx, queue); err != nil {
			return err
		}
	}
	err := b.publishOne(ctx, queue.ExchangeName, topic, msg)
	var refused *RefusedError
	if errors.As(err, &refused) && refused.unroutable { // somebody deleted the queue
		if err := b.declareDelay(ctx, queue); err != nil {
			return err
		}
		return b.publishOne(ctx, queue.ExchangeName, topic, msg)
	}
	return err
}

func (b *Broker) declareDelay(ctx context.Context, queue binding) error {
	if err := b.declare(ctx, []binding{queue}); err != nil {
		return fmt.Errorf("rabbitmq: publish after a delay: %w", err)
	}
	return nil
}

func (b *Broker) publishOne(ctx context.Context, exchange, topic string, msg *message.Message) error {
	errs := b.publishAsync(ctx, exchange, []string{topic}, []*message.Message{msg})(ctx)
	return errors.Join(errs...)
}

// delayQueue is a queue whose messages expire after the delay and so go back to the exchange, with the
// routing key they came with.
func delayQueue(exchange string, delay time.Duration) binding {
	ms := roundUp((delay + time.Millisecond - 1).Milliseconds())
	name := fmt.Sprintf("%s%d", delayPrefix, ms)
	if exchange != DefaultExchange {
		name = fmt.Sprintf("%s%s.%d", delayPrefix, exchange, ms)
	}
	config := durableTopic()
	config.Queue.Arguments = amqp.Table{"x-message-ttl": ms, "x-dead-letter-exchange": exchange}
	return binding{
		BuildTopologyParams: wamqp.BuildTopologyParams{QueueName: name, ExchangeName: name, RoutingKey: "#"},
		config:              config,
	}
}

// roundUp returns the next number of which only the first two digits are not zero, at most what a
// queue's message TTL can be.
func roundUp(n int64) int64 {
	unit := int64(1)
	for n > 99*unit {
		unit *= 10
	}
	return min((n+unit-1)/unit*unit, maxExpiration)
}
