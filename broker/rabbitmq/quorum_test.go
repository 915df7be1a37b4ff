package rabbitmq

import (
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
	amqp "github.com/rabbitmq/amqp091-go"
)

// Quorum queues are declared as such, and deliver.
func TestQuorumQueue(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b := r.open(Config{QueueType: "quorum"})
	queue := r.queue()
	r.bind(b, queue, "account")
	if _, err := r.ch.QueueDeclare(queue, true, false, false, false, amqp.Table{"x-queue-type": "quorum"}); err != nil {
		t.Errorf("the queue is of another type: %v", err)
	}
	if err := b.Publish("account", message.NewMessage("1", []byte("x"))); err != nil {
		t.Fatal(err)
	}
	m := <-r.subscribe(b, queue)
	if m.UUID != "1" {
		t.Errorf("have message %s, want 1", m.UUID)
	}
	m.Ack()
}

// TestOtherQueueType: whoever declares a queue of the other type is told what to do.
func TestOtherQueueType(t *testing.T) {
	t.Parallel()
	for first, second := range map[string]string{"classic": "quorum", "quorum": "classic"} {
		r := newRig(t)
		queue := r.queue()
		r.bind(r.open(Config{QueueType: first}), queue, "account")
		err := r.open(Config{QueueType: second}).Bind(t.Context(), queue, "account")
		if err == nil {
			t.Errorf("%s over %s: want an error", second, first)
			continue
		}
		for _, want := range []string{queue, first, "queue_type", "delete it"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s over %s: have error %q, want one with %q", second, first, err, want)
			}
		}
	}
}

// TestGivenBackOften: a quorum queue counts how often a message was given back, and must not drop it
// for that: an outage may take any number of starts.
func TestGivenBackOften(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b := r.open(Config{QueueType: "quorum"})
	queue := r.queue()
	r.bind(b, queue, "account")
	if err := b.Publish("account", newMessage("kept")); err != nil {
		t.Fatal(err)
	}
	messages := r.subscribe(b, queue)
	const times = 50 // RabbitMQ 4 would drop it after 20
	for range times {
		r.next(messages).Nack()
	}
	m := r.next(messages)
	if string(m.Payload) != "kept" {
		t.Errorf("have %s after %d returns, want the message that was given back", m.Payload, times)
	}
	m.Ack()
}

// TestDeliveryLimit: where RabbitMQ has a limit by itself, queues are declared without.
func TestDeliveryLimit(t *testing.T) {
	t.Parallel()
	quorum := newTopology("cqrs", queueQuorum).queue("q", []string{"account"})
	classic := newTopology("cqrs", queueClassic).queue("q", []string{"account"})
	for _, test := range []struct {
		version  string
		bindings []binding
		want     amqp.Table
	}{
		{"3.10.8", quorum, amqp.Table{"x-queue-type": "quorum"}},
		{"3.13.7", quorum, amqp.Table{"x-queue-type": "quorum"}},
		{"4.0.5", quorum, amqp.Table{"x-queue-type": "quorum", "x-delivery-limit": -1}},
		{"10.0.0-beta.1", quorum, amqp.Table{"x-queue-type": "quorum", "x-delivery-limit": -1}},
		{"", quorum, amqp.Table{"x-queue-type": "quorum"}},
		{"4.0.5", classic, nil},
	} {
		have := unlimited(test.bindings, test.version)[0].config.Queue.Arguments
		if diff := cmp.Diff(test.want, have); diff != "" {
			t.Errorf("RabbitMQ %q: arguments (-want +have):\n%s", test.version, diff)
		}
	}
	if diff := cmp.Diff(amqp.Table{"x-queue-type": "quorum"}, quorum[0].config.Queue.Arguments); diff != "" {
		t.Errorf("the arguments that were given have changed (-want +have):\n%s", diff)
	}
}

// TestQueueWithALimit: a queue that exists with a delivery limit is used all the same, with a warning.
func TestQueueWithALimit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	log := &lines{}
	b, queue := r.open(Config{QueueType: "quorum", Logger: log.logger()}), r.queue()
	if _, err := r.ch.QueueDeclare(queue, true, false, false, false, amqp.Table{"x-queue-type": "quorum"}); err != nil {
		t.Fatal(err)
	}
	there := b.topology.queue(queue, []string{"account"})
	c, err := b.consuming.await(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	declared, err := b.declareFirst(c, unlimited(there, "4.0.0"), there)
	if err != nil || !sameArguments(declared[0], there[0]) {
		t.Errorf("have %v, %v, want the queue as it is", declared, err)
	}
	if log.count("delivery limit") != 1 || log.count(queue) != 1 {
		t.Error("want one warning of the delivery limit, with the queue")
	}
	if err := b.Publish("account", newMessage("bound")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"bound"}, r.payloads(queue)); diff != "" {
		t.Errorf("queue (-want +have):\n%s", diff)
	}
}
