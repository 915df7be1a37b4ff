package integration_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/broker"
	"github.com/lockstep-go/lockstep/consumer"
)

// A retry that waits at the broker for its delay outlives the broker's death, too.
func TestDelayedMessageOutlivesRabbitMQ(t *testing.T) {
	t.Parallel()
	n := newNode(t, "")
	const queue, topic, delay = "billing", "cqrs.billing.account", 5 * time.Second
	open := func() broker.Broker {
		b, err := broker.Open(t.Context(), n.url, broker.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	b := open()
	if err := b.Bind(t.Context(), queue, topic); err != nil {
		t.Fatal(err)
	}
	m := message.NewMessage(watermill.NewUUID(), []byte("again"))
	if err := b.(consumer.DelayedPublisher).PublishAfter(t.Context(), delay, topic, m); err != nil {
		t.Fatal(err)
	}
	_ = b.Close()
	n.stop(syscall.SIGKILL)
	n.start(t)
	b = open()
	defer func() { _ = b.Close() }()
	messages, err := b.Subscribe(t.Context(), queue)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case have := <-messages:
		if have.UUID != m.UUID || string(have.Payload) != "again" {
			t.Errorf("came %s %q, want the message that was delayed", have.UUID, have.Payload)
		}
		have.Ack()
	case <-time.After(patience):
		t.Errorf("nothing came within %v", patience)
	}
}
