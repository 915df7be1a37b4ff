package main

import (
	"context"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/lockstep-go/lockstep/broker/rabbitmq"
	"github.com/lockstep-go/lockstep/relay"
)

// What the relay and its references put into RabbitMQ's queue is comparable: persistent,
// of the same size, and with the same headers and properties where the row says so.
func TestSidesSendTheSame(t *testing.T) {
	t.Parallel()
	r, err := newRig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	const n = 3
	ours := r.sent(t, func() error {
		broker, err := rabbitmq.Open(t.Context(), r.amqpURL, rabbitmq.Config{Exchange: r.exchange})
		if err != nil {
			return err
		}
		defer func() { _ = broker.Close() }()
		if err := r.fill(t.Context(), n); err != nil {
			return err
		}
		_, err = empty(t.Context(), r.db, broker, n, relay.Config{})
		return err
	})
	raw := func(headers bool) amqp.Delivery {
		return r.sent(t, func() error { _, err := publishRaw(t.Context(), r.conn, r, n, headers); return err })
	}
	forwarded := r.sent(t, func() error {
		_, err := forwarded(t.Context(), r, [][]byte{payload(), payload(), payload()}, func(ctx context.Context) error {
			return until(ctx, func() bool { return r.depth(t) == n })
		})
		return err
	})
	for name, d := range map[string]amqp.Delivery{"the relay": ours, "the raw loop": raw(true), "the bare loop": raw(false), "Watermill's forwarder": forwarded} {
		if d.DeliveryMode != amqp.Persistent || len(d.Body) != payloadBytes {
			t.Errorf("%s sends %d bytes with delivery mode %d, want %d persistent ones", name, len(d.Body), d.DeliveryMode, payloadBytes)
		}
		want := map[string]int{"the relay": len(ours.Headers), "the raw loop": len(ours.Headers), "the bare loop": 0, "Watermill's forwarder": len(d.Headers)}[name]
		if len(d.Headers) != want {
			t.Errorf("%s sends the headers %v, want %d of them", name, d.Headers, want)
		}
	}
	same := raw(true)
	for name := range ours.Headers {
		if _, has := same.Headers[name]; !has {
			t.Errorf("the raw loop does not send the header %s, as the relay does", name)
		}
	}
	if same.Timestamp.IsZero() != ours.Timestamp.IsZero() || (same.MessageId == "") != (ours.MessageId == "") || (same.ContentType == "") != (ours.ContentType == "") {
		t.Errorf("the raw loop's properties are %+v, the relay's %+v", same, ours)
	}
}

// sent returns the first of the messages that publish brings into the queue, which is
// empty afterwards.
func (r *rig) sent(t *testing.T, publish func() error) amqp.Delivery {
	t.Helper()
	if err := publish(); err != nil {
		t.Fatal(err)
	}
	if err := until(t.Context(), func() bool { return r.depth(t) > 0 }); err != nil {
		t.Fatal(err)
	}
	first, ok, err := r.channel.Get(r.queue, true)
	if err != nil || !ok {
		t.Fatalf("nothing is in the queue: %v", err)
	}
	if _, err := r.channel.QueuePurge(r.queue, false); err != nil {
		t.Fatal(err)
	}
	return first
}

func (r *rig) depth(t *testing.T) int {
	t.Helper()
	q, err := r.channel.QueueDeclarePassive(r.queue, true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	return q.Messages
}

// References wait for confirms, and their exchange and queue are durable.
func TestForwarderConfirms(t *testing.T) {
	t.Parallel()
	r := &rig{amqpURL: "amqp://localhost/", exchange: "e", queue: "q"}
	if cfg := r.watermill(); !cfg.Publish.ConfirmDelivery || !cfg.Exchange.Durable || !cfg.Queue.Durable || cfg.Marshaler == nil {
		t.Errorf("have %+v, want durable exchange and queue, and confirms", cfg)
	}
}
