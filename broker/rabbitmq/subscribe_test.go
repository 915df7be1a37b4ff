package rabbitmq

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
)

// fill puts messages 0 … n-1 into the queue that is bound to account.
func fill(t *testing.T, b *Broker, n int) {
	t.Helper()
	topics, msgs := series("account", n)
	if errs := b.PublishAsync(t.Context(), topics, msgs)(t.Context()); errs != nil {
		t.Fatalf("publish: %v", errs)
	}
}

func none(t *testing.T, messages <-chan *message.Message, why string) {
	t.Helper()
	select {
	case msg := <-messages:
		t.Errorf("have message %s, want none: %s", msg.Payload, why)
	case <-time.After(200 * time.Millisecond):
	}
}

func TestHandsOnUpToPrefetchWithoutAcks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, queue := r.bound(Config{Prefetch: 10}, "account")
	fill(t, b, 20)
	messages := r.subscribe(b, queue)
	var held []*message.Message
	for i := range 10 {
		msg := r.next(messages)
		if want := fmt.Sprint(i); string(msg.Payload) != want {
			t.Fatalf("have message %s, want %s", msg.Payload, want)
		}
		held = append(held, msg)
	}
	none(t, messages, "ten are not acked")

	held[7].Ack() // out of order: makes room for one
	if msg := r.next(messages); string(msg.Payload) != "10" {
		t.Errorf("have message %s, want 10", msg.Payload)
	}
	none(t, messages, "only one was acked")
	select {
	case <-held[7].Context().Done():
	case <-time.After(patience):
		t.Error("the acked message's context goes on")
	}
	if err := held[0].Context().Err(); err != nil {
		t.Errorf("the context of a message that is not acked has ended: %v", err)
	}
}

func TestNackPutsBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, queue := r.bound(Config{}, "account")
	fill(t, b, 6)
	messages := r.subscribe(b, queue)
	var held []*message.Message
	for range 6 {
		held = append(held, r.next(messages))
	}
	for i, msg := range held { // all at once: nacks stand between acks that are sent together
		if i == 2 || i == 4 {
			msg.Nack()
		} else {
			msg.Ack()
		}
	}
	have := []string{string(r.next(messages).Payload), string(r.next(messages).Payload)}
	slices.Sort(have)
	if diff := cmp.Diff([]string{"2", "4"}, have); diff != "" {
		t.Errorf("delivered again (-want +have):\n%s", diff)
	}
	none(t, messages, "the others were acked")
}

// TestExactlyTheAckedAreAcked acks a random part in random order from many goroutines and looks at what
// comes again.
func TestExactlyTheAckedAreAcked(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, queue := r.bound(Config{}, "account")
	const n = 1000
	fill(t, b, n)
	ctx, cancel := context.WithCancel(t.Context())
	messages, err := b.Subscribe(ctx, queue)
	if err != nil {
		t.Fatal(err)
	}
	var held []*message.Message
	for range n {
		held = append(held, r.next(messages))
	}
	var want []string
	var workers sync.WaitGroup
	rand.Shuffle(n, func(i, j int) { held[i], held[j] = held[j], held[i] })
	for i, msg := range held {
		if i%3 == 0 {
			want = append(want, string(msg.Payload))
			continue
		}
		workers.Go(func() { msg.Ack() })
		if i%50 == 0 {
			<-time.After(time.Millisecond)
		}
	}
	workers.Wait()
	cancel()
	if _, ok := <-messages; ok {
		t.Error("the channel is open after the end of the context")
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	have := r.payloads(queue)
	slices.Sort(want)
	slices.Sort(have)
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("left in the queue (-want +have):\n%s", diff)
	}
}

// TestLateAcks ends the context while messages are being worked on: what is acked within the grace
// is acked, what was not handed on is free for others at once.
func TestLateAcks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, queue := r.bound(Config{}, "account")
	fill(t, b, 5)
	ctx, cancel := context.WithCancel(t.Context())
	messages, err := b.Subscribe(ctx, queue)
	if err != nil {
		t.Fatal(err)
	}
	first, second := r.next(messages), r.next(messages)
	cancel()
	for msg := range messages { // one more may have been on its way
		msg.Nack()
	}
	others := r.subscribe(r.open(Config{}), queue)
	have := r.receive(others, 3)
	slices.Sort(have)
	if diff := cmp.Diff([]string{"2", "3", "4"}, have); diff != "" {
		t.Errorf("handed to another subscriber (-want +have):\n%s", diff)
	}
	none(t, others, "two are being worked on")
	second.Ack()
	first.Nack()
	if diff := cmp.Diff([]string{"0"}, r.receive(others, 1)); diff != "" {
		t.Errorf("nacked late (-want +have):\n%s", diff)
	}
	none(t, others, "the other one was acked late")
}

func TestTwoSubscriptionsShareAQueue(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, queue := r.bound(Config{Prefetch: 1}, "account")
	one, two := r.subscribe(b, queue), r.subscribe(b, queue)
	fill(t, b, 2)
	have := []string{string(r.next(one).Payload), string(r.next(two).Payload)}
	slices.Sort(have)
	if diff := cmp.Diff([]string{"0", "1"}, have); diff != "" {
		t.Errorf("received (-want +have):\n%s", diff)
	}
}

// TestSubscribeBindsAnUnknownQueue to the topic of its own name, and leaves a bound one alone.
func TestSubscribeBindsAnUnknownQueue(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, bound := r.bound(Config{}, "account")
	unknown := r.queue()
	r.subscribe(b, unknown)
	r.subscribe(b, bound)
	topics := []string{unknown, bound}
	_, msgs := series("", 2)
	errs := b.PublishAsync(t.Context(), topics, msgs)(t.Context())
	if len(errs) != 2 || errs[0] != nil || errs[1] == nil {
		t.Errorf("have errors %v, want only topic %s unroutable", errs, bound)
	}
}

func TestBindFaults(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, other := r.open(Config{}), r.queue()
	if _, err := r.ch.QueueDeclare(other, true, false, false, false, map[string]any{"x-max-length": 5}); err != nil {
		t.Fatal(err)
	}
	if err := b.Bind(t.Context(), other, "account"); err == nil {
		t.Error("a queue with other arguments: want an error")
	}
	if err := b.Bind(t.Context(), "", "account"); err == nil {
		t.Error("no queue name: want an error")
	}
	plain := r.queue()
	r.bind(b, plain)
	if _, err := r.ch.QueueDeclarePassive(plain, true, false, false, false, nil); err != nil {
		t.Errorf("a queue without topics is not declared: %v", err)
	}
}
