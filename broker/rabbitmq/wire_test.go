package rabbitmq

import (
	"testing"
	"time"

	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/lockstep-go/lockstep/event"
)

// TestTopologyIsDjangos declares, with django-cqrs's exact arguments, what the broker has declared:
// RabbitMQ answers 406 to any difference.
func TestTopologyIsDjangos(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	_, queue := r.bound(Config{}, "account")
	if err := r.ch.ExchangeDeclare(r.exchange, "topic", true, false, false, false, nil); err != nil {
		t.Errorf("exchange: %v", err)
	}
	if _, err := r.ch.QueueDeclare(queue, true, false, false, false, nil); err != nil {
		t.Errorf("queue: %v", err)
	}
	if err := r.ch.QueueUnbind(queue, "account", r.exchange, nil); err != nil { // names the arguments, too
		t.Errorf("binding: %v", err)
	}
	err := r.ch.PublishWithContext(t.Context(), r.exchange, "account", false, false, amqp.Publishing{})
	if err != nil {
		t.Fatal(err)
	}
	if have := r.payloads(queue); have != nil {
		t.Errorf("have messages %q after the binding without arguments was removed", have)
	}
}

func TestSentProperties(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, queue := r.bound(Config{}, "account")
	msg := newMessage(`{"a":1}`)
	msg.Metadata = message.Metadata{
		"traceparent": "00-1", event.HeaderEventID: msg.UUID, event.MetadataTTL: "60000", "x-death": "[]",
	}
	if err := b.Publish("account", msg); err != nil {
		t.Fatal(err)
	}
	have := r.get(queue)
	if age := time.Since(have.Timestamp); age < 0 || age > time.Minute {
		t.Errorf("timestamp is %v, want now", have.Timestamp)
	}
	have.Acknowledger, have.Timestamp = nil, time.Time{}
	have.DeliveryTag, have.MessageCount, have.Exchange = 0, 0, ""
	want := amqp.Delivery{
		ContentType: "text/plain", DeliveryMode: 2, MessageId: msg.UUID, Expiration: "60000",
		Headers:    amqp.Table{"traceparent": "00-1", event.HeaderEventID: msg.UUID},
		RoutingKey: "account", Body: []byte(`{"a":1}`),
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("on the wire (-want +have):\n%s", diff)
	}
}

func TestTTLExpires(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, queue := r.bound(Config{}, "account")
	msg := newMessage("x")
	msg.Metadata[event.MetadataTTL] = "50"
	if err := b.Publish("account", msg); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the message has expired", func() bool {
		q, err := r.ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		return err == nil && q.Messages == 0
	})
}

func TestUUIDAndMetadataTravel(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, queue := r.bound(Config{}, "account")
	messages := r.subscribe(b, queue)
	for _, metadata := range []message.Metadata{nil, {}, {"a": "", "b": "ü \x00 \xff"}} {
		want := newMessage("x")
		want.Metadata = metadata
		if err := b.Publish("account", want); err != nil {
			t.Fatal(err)
		}
		have := r.next(messages)
		have.Ack()
		if !have.Equals(want) {
			t.Errorf("have %q %q %q, want %q %q %q", have.UUID, have.Metadata, have.Payload, want.UUID, want.Metadata, want.Payload)
		}
	}
}

// TestMessageOfDjango has neither headers nor message id.
func TestMessageOfDjango(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, queue := r.bound(Config{}, "account")
	messages := r.subscribe(b, queue)
	err := r.ch.PublishWithContext(t.Context(), r.exchange, "account", true, false, amqp.Publishing{
		ContentType: "text/plain", DeliveryMode: 2, Body: []byte(`{"signal_type":"SAVE"}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	have := r.next(messages)
	if _, err := uuid.Parse(have.UUID); err != nil {
		t.Errorf("have UUID %q, want a fresh one: %v", have.UUID, err)
	}
	if len(have.Metadata) != 0 || string(have.Payload) != `{"signal_type":"SAVE"}` {
		t.Errorf("have metadata %q and payload %q", have.Metadata, have.Payload)
	}
	have.Metadata.Set("still", "usable")
}

func TestHeadersOfAnyType(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, queue := r.bound(Config{}, "account")
	messages := r.subscribe(b, queue)
	at := time.Date(2026, 11, 22, 21, 0, 0, 0, time.UTC)
	err := r.ch.PublishWithContext(t.Context(), r.exchange, "account", true, false, amqp.Publishing{
		Headers: amqp.Table{
			wamqp.DefaultMessageUUIDHeaderKey: "of-watermill-amqp",

			"nil": nil, "bool": true, "byte": byte(200), "int8": int8(-3), "int16": int16(-300), "int32": int32(-70000),
			"int64": int64(1 << 60), "float32": float32(1.5), "float64": 1e300, "decimal": amqp.Decimal{Scale: 3, Value: -12},
			"bytes": []byte("raw"), "time": at, "list": []any{"a", int32(1)}, "table": amqp.Table{"k": "v"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := message.Metadata{
		"nil": "", "bool": "true", "byte": "200", "int8": "-3", "int16": "-300", "int32": "-70000",
		"int64": "1152921504606846976", "float32": "1.5", "float64": "1e+300", "decimal": "-0.012",
		"bytes": "raw", "time": "2026-11-22T21:00:00Z", "list": `["a",1]`, "table": `{"k":"v"}`,
	}
	have := r.next(messages)
	if diff := cmp.Diff(want, have.Metadata); diff != "" {
		t.Errorf("metadata (-want +have):\n%s", diff)
	}
	if have.UUID != "of-watermill-amqp" {
		t.Errorf("have UUID %q, want watermill-amqp's", have.UUID)
	}
}
