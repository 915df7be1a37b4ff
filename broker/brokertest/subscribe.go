package brokertest

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// testNack: a message that is nacked comes again as it was; one that is acked
// does not.
func testNack(t *testing.T, f *fixture) {
	queue := f.name("billing")
	f.bind(queue, queue)
	messages := f.subscribe(t.Context(), queue)
	want, want2 := newMessage("nacked"), newMessage("acked")
	want.Metadata.Set("key", "value")
	f.publish(queue, want.Copy(), want2)
	for range 3 {
		for {
			msg := f.next(messages)
			if msg.UUID == want.UUID {
				f.same(want, msg)
				msg.Nack()
				break
			}
			msg.Ack()
		}
	}
	for {
		msg := f.next(messages)
		msg.Ack()
		if msg.UUID == want.UUID {
			break
		}
	}
	f.nothing(messages, 200*time.Millisecond)
}

// testPrefetch: messages are handed on without waiting for the acknowledgement
// of earlier ones, up to the limit, and in any order of acknowledgement.
func testPrefetch(t *testing.T, f *fixture) {
	const extra = 10
	queue := f.name("billing")
	f.bind(queue, queue)
	msgs, want := numbered(Prefetch + extra)
	f.publish(queue, msgs...)
	messages := f.subscribe(t.Context(), queue)
	held := make([]*message.Message, Prefetch)
	bodies := make([]string, Prefetch)
	for i := range held {
		held[i] = f.next(messages)
		bodies[i] = string(held[i].Payload)
	}
	f.nothing(messages, 100*time.Millisecond)
	for i := range extra {
		held[500+i].Ack()
		next := f.next(messages)
		next.Ack()
		bodies = append(bodies, string(next.Payload))
	}
	f.equal("bodies", want, bodies)
}

// testShare: two subscriptions of a queue get each message once between them.
func testShare(t *testing.T, f *fixture) {
	const n = 200
	queue := f.name("billing")
	f.bind(queue, queue)
	one, two := f.subscribe(t.Context(), queue), f.subscribe(t.Context(), queue)
	msgs, want := numbered(n)
	f.publish(queue, msgs...)
	var have []string
	for range n {
		var msg *message.Message
		select {
		case msg = <-one:
		case msg = <-two:
		case <-time.After(patience):
			t.Fatalf("%d of %d messages came", len(have), n)
		}
		have = append(have, string(msg.Payload))
		msg.Ack()
	}
	f.nothing(one, 100*time.Millisecond)
	f.nothing(two, 10*time.Millisecond)
	slices.Sort(want)
	slices.Sort(have)
	f.equal("bodies", want, have)
}

// testContext: the end of its context ends a subscription and the contexts of
// its messages; what it did not hand on goes to the next one.
func testContext(t *testing.T, f *fixture) {
	const n = 50
	queue := f.name("billing")
	f.bind(queue, queue)
	msgs, want := numbered(n)
	f.publish(queue, msgs...)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	messages := f.subscribe(ctx, queue)
	acked, open := f.next(messages), f.next(messages)
	acked.Ack()
	select {
	case <-acked.Context().Done():
	case <-time.After(patience):
		t.Error("the context of an acknowledged message did not end")
	}
	if err := open.Context().Err(); err != nil {
		t.Errorf("the context of an open message: %v", err)
	}
	cancel()
	select {
	case <-open.Context().Done():
	case <-time.After(patience):
		t.Error("the context of a message did not end with the subscription's")
	}
	open.Nack()
	lost := f.ended(messages) // never acknowledged: they come after a while
	have := f.take(f.subscribe(t.Context(), queue), n-1-lost)
	for _, body := range have {
		if !slices.Contains(want[1:], body) {
			t.Errorf("message %s came again", body)
		}
	}
}

// testLateAck: who is busy with a message when its subscription ends can still
// acknowledge it.
func testLateAck(t *testing.T, f *fixture) {
	queue := f.name("billing")
	f.bind(queue, queue)
	f.publish(queue, newMessage("late"), newMessage("next"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	messages := f.subscribe(ctx, queue)
	late, next := f.next(messages), f.next(messages)
	cancel()
	f.ended(messages)
	late.Ack()
	next.Nack()
	messages = f.subscribe(t.Context(), queue)
	f.equal("bodies", []string{"next"}, f.take(messages, 1))
	f.nothing(messages, 200*time.Millisecond)
}

// testClose: Close ends every subscription, held messages or not, and may be
// called again.
func testClose(t *testing.T, f *fixture) {
	queue, idle := f.name("billing"), f.name("idle")
	f.bind(queue, queue)
	msgs, _ := numbered(20)
	f.publish(queue, msgs...)
	messages, none := f.subscribe(t.Context(), queue), f.subscribe(t.Context(), idle)
	held := f.next(messages)
	for range 2 {
		if err := f.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	f.ended(messages)
	f.ended(none)
	if held.Context().Err() == nil {
		t.Error("the context of a held message did not end")
	}
	held.Ack() // must not panic or block
}

// testAfterClose: a closed adapter says so, and does not condemn the message.
func testAfterClose(t *testing.T, f *fixture) {
	queue := f.name("billing")
	f.bind(queue, queue)
	if err := f.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	f.equal("Publish", "outage", class(f.Publish(queue, newMessage("x"))))
	f.equal("PublishAfter", "outage", class(f.PublishAfter(t.Context(), time.Second, queue, newMessage("x"))))
	msgs, _ := numbered(2)
	errs := f.PublishAsync(t.Context(), []string{queue, queue}, msgs)(t.Context())
	f.equal("PublishAsync", []string{"outage", "outage"}, classes(errs, 2))
	f.equal("Bind", "outage", class(f.Bind(t.Context(), queue, queue)))
	f.equal("SubscribeInitialize", "outage", class(f.SubscribeInitialize(queue)))
	_, err := f.Subscribe(t.Context(), queue)
	f.equal("Subscribe", "outage", class(err))
}
