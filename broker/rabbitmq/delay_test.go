package rabbitmq

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/event"
)

func TestPublishAfter(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, queue := r.bound(Config{}, "cqrs.q.account")
	for _, name := range []string{"300", "4000"} {
		r.deleteLater("lockstep.delay." + r.exchange + "." + name)
	}
	start := time.Now()
	late, soon := newMessage("late"), newMessage("soon")
	late.Metadata["a"], late.Metadata[event.MetadataTTL] = "b", "10" // would end before the delay
	const longDelay = 4 * time.Second                                // a busy disk takes its time over each of these
	if err := b.PublishAfter(t.Context(), longDelay, "cqrs.q.account", late); err != nil {
		t.Fatal(err)
	}
	if err := b.PublishAfter(t.Context(), 291*time.Millisecond, "cqrs.q.account", soon); err != nil {
		t.Fatal(err)
	}
	if err := b.PublishAfter(t.Context(), 0, "cqrs.q.account", newMessage("now")); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil { // the server alone delivers them
		t.Fatal(err)
	}
	messages := r.subscribe(r.open(Config{}), queue)
	first := r.receive(messages, 2)
	slices.Sort(first)
	if diff := cmp.Diff([]string{"now", "soon"}, first); diff != "" {
		t.Errorf("first (-want +have):\n%s", diff)
	}
	if took := time.Since(start); took < 291*time.Millisecond {
		t.Errorf("soon came after %v, want at least 291 ms", took)
	}
	have := r.next(messages)
	if took := time.Since(start); took < longDelay {
		t.Errorf("late came after %v, want %v", took, longDelay)
	}
	if have.UUID != late.UUID || have.Metadata["a"] != "b" || string(have.Payload) != "late" {
		t.Errorf("have %q %q %q, want the message as it was sent", have.UUID, have.Metadata, have.Payload)
	}
	if late.Metadata[event.MetadataTTL] != "10" {
		t.Error("the caller's message was changed")
	}
}

// TestDelayedAgain sends a message that was delayed before once more, as a retry does: RabbitMQ's own
// headers about the first delay must not hinder.
func TestDelayedAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, queue := r.bound(Config{}, "account")
	r.deleteLater("lockstep.delay." + r.exchange + ".20")
	messages := r.subscribe(b, queue)
	msg := newMessage("x")
	for range 3 {
		if err := b.PublishAfter(t.Context(), 20*time.Millisecond, "account", msg); err != nil {
			t.Fatal(err)
		}
		have := r.next(messages)
		have.Ack()
		if !have.Equals(msg) {
			t.Errorf("have metadata %q, want the message as it was sent", have.Metadata)
		}
		msg = have
	}
}

func TestDelayQueueDeleted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, queue := r.bound(Config{}, "account")
	name := r.deleteLater("lockstep.delay." + r.exchange + ".20")
	messages := r.subscribe(b, queue)
	for range 2 {
		if err := b.PublishAfter(t.Context(), 20*time.Millisecond, "account", newMessage("x")); err != nil {
			t.Fatal(err)
		}
		r.receive(messages, 1)
		if _, err := r.ch.QueueDelete(name, false, false, false); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDelayTooLong(t *testing.T) {
	t.Parallel()
	b := newRig(t).open(Config{})
	if err := b.PublishAfter(t.Context(), 50*24*time.Hour, "account", newMessage("x")); !permanent(err) {
		t.Errorf("have error %v, want a permanent refusal", err)
	}
}

func TestDelayNamesAreFew(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for ms := time.Duration(1); ms < 10_000_000; ms = ms*101/100 + 1 {
		delay := ms * time.Millisecond
		q := delayQueue(DefaultExchange, delay)
		ttl := time.Duration(q.config.Queue.Arguments["x-message-ttl"].(int64)) * time.Millisecond
		if ttl < delay || float64(ttl) > math.Max(float64(delay)*1.1, float64(delay+time.Millisecond)) {
			t.Errorf("delay %v becomes %v, want it rounded up to two digits", delay, ttl)
		}
		names[q.QueueName] = true
	}
	if len(names) > 99+5*90+1 {
		t.Errorf("%d queues for delays up to three hours", len(names))
	}
	for delay, want := range map[time.Duration]string{
		1:                           "lockstep.delay.1",
		2 * time.Second:             "lockstep.delay.2000",
		time.Minute:                 "lockstep.delay.60000",
		2*time.Second + 1:           "lockstep.delay.2100",
		100 * time.Millisecond:      "lockstep.delay.100",
		995 * time.Millisecond:      "lockstep.delay.1000",
		maxDelay:                    "lockstep.delay.4294967295",
		maxDelay - time.Millisecond: "lockstep.delay.4294967295",
		4_200_000 * time.Second:     "lockstep.delay.4200000000",
		99*time.Millisecond + 1:     "lockstep.delay.100",
	} {
		if have := delayQueue(DefaultExchange, delay).QueueName; have != want {
			t.Errorf("delay %v: have %s, want %s", delay, have, want)
		}
	}
}
