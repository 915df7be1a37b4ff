package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/event"
)

// poison returns a message that makes RabbitMQ close the channel with 406, as one that is too large
// does: the CC header, with which senders can add routing keys, must be a list.
func poison(payload string) *message.Message {
	msg := newMessage(payload)
	msg.Metadata["CC"] = "not a list"
	return msg
}

func permanent(err error) bool {
	var refused interface {
		error
		Permanent() bool
	}
	return errors.As(err, &refused) && refused.Permanent()
}

// TestCulpritsAreIsolated has several calls in flight when RabbitMQ closes the channel because of three
// messages in two of them.
func TestCulpritsAreIsolated(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, queue := r.bound(Config{}, "account")
	culprits := map[int]bool{17: true, 18: true, 1399: true}
	topics, msgs := series("account", 1500)
	for i := range culprits {
		msgs[i] = poison(fmt.Sprint(i))
	}
	var waits []func(context.Context) []error
	for i := 0; i < len(msgs); i += 300 {
		waits = append(waits, b.PublishAsync(t.Context(), topics[i:i+300], msgs[i:i+300]))
	}
	for call, wait := range waits {
		errs := wait(t.Context())
		for i := range 300 {
			var err error
			if errs != nil {
				err = errs[i]
			}
			if n := call*300 + i; culprits[n] && !permanent(err) {
				t.Errorf("culprit %d: have error %v, want a permanent refusal", n, err)
			} else if !culprits[n] && err != nil {
				t.Errorf("message %d: have error %v, want confirmed", n, err)
			}
		}
		if call == 0 && !strings.Contains(errs[17].Error(), "PRECONDITION_FAILED") {
			t.Errorf("have error %q, want one with RabbitMQ's reason", errs[17])
		}
	}

	seen := map[string]bool{}
	var first []string // each payload as it came first: repeats are allowed, gaps and overtaking are not
	for _, payload := range r.payloads(queue) {
		if !seen[payload] {
			seen[payload] = true
			first = append(first, payload)
		}
	}
	var want []string
	for i := range msgs {
		if !culprits[i] {
			want = append(want, fmt.Sprint(i))
		}
	}
	if diff := cmp.Diff(want, first); diff != "" {
		t.Errorf("queue (-want +have):\n%s", diff)
	}
	if err := b.Publish("account", newMessage("later")); err != nil {
		t.Errorf("Publish afterwards: %v", err)
	}
}

// TestNobodyIsToBlameForTopology lets the channel that is opened for the search fail: a queue was made
// anew with other properties.
func TestNobodyIsToBlameForTopology(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, queue := r.bound(Config{ConfirmTimeout: 6 * time.Second}, "account")
	if err := b.Publish("account", newMessage("opens the channel")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ch.QueueDelete(queue, false, false, false); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ch.QueueDeclare(queue, true, false, false, false, map[string]any{"x-max-length": 5}); err != nil {
		t.Fatal(err)
	}
	topics, msgs := series("account", 4)
	msgs[0] = poison("0")
	errs := b.PublishAsync(t.Context(), topics, msgs)(t.Context())
	for i, err := range errs {
		if !outage(err) {
			t.Errorf("message %d: have error %v, want an outage", i, err)
		}
	}
	if len(errs) != 4 {
		t.Errorf("have %d errors, want 4", len(errs))
	}
	if err := b.Publish("account", newMessage("x")); err == nil || !strings.Contains(err.Error(), queue) {
		t.Errorf("have error %v, want one that names the queue", err)
	}
}

func TestSingleCulprit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, _ := r.bound(Config{}, "account")
	if err := b.Publish("account", poison("x")); !permanent(err) {
		t.Errorf("have error %v, want a permanent refusal", err)
	}
}

// TestMessagesThatAMQPCannotCarry would cost the connection, and all that is under way on it, if they
// were sent.
func TestMessagesThatAMQPCannotCarry(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, queue := r.bound(Config{}, "account")
	long := strings.Repeat("x", 256)
	with := func(key, value string) *message.Message {
		msg := newMessage("bad")
		msg.Metadata[key] = value
		return msg
	}
	topics := []string{"account", long, "account", "account", "account", "account", "account", "account", "account"}
	msgs := []*message.Message{
		newMessage("first"),
		newMessage("a long topic"),
		message.NewMessage(long, []byte("a long UUID")),
		with(long, "a long key"),
		with("wide", strings.Repeat("x", 200_000)),
		with(event.MetadataTTL, "soon"),
		with(event.MetadataTTL, "-1"),
		with(event.MetadataTTL, "4294967296"),
		newMessage("last"),
	}
	errs := b.PublishAsync(t.Context(), topics, msgs)(t.Context())
	for i := range msgs {
		if good := i == 0 || i == len(msgs)-1; good != (errs[i] == nil) || !good && !permanent(errs[i]) {
			t.Errorf("message %d (%s): have error %v", i, msgs[i].Payload, errs[i])
		}
	}
	if diff := cmp.Diff([]string{"first", "last"}, r.payloads(queue)); diff != "" {
		t.Errorf("queue (-want +have):\n%s", diff)
	}
}

// bindShort declares a queue of an operator's making for "account", with room for one message, which refuses
// the next ones.
func (r *rig) bindShort(queue string) {
	r.t.Helper()
	_, err := r.ch.QueueDeclare(queue, true, false, false, false, map[string]any{
		"x-max-length": 1, "x-overflow": "reject-publish",
	})
	if err == nil {
		err = r.ch.QueueBind(queue, "account", r.exchange, false, nil)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// A message that is nacked is an outage at first, and refused only when that lasts.
func TestNackedMessage(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, queue := r.open(Config{}), r.queue()
	r.bindShort(queue)
	topics, msgs := series("account", 5)
	errs := b.PublishAsync(t.Context(), topics, msgs)(t.Context())
	if len(errs) != 5 || !outage(errs[4]) {
		t.Errorf("have errors %v, want the last one an outage", errs)
	}
	b.publisher.doubts.patience = time.Nanosecond
	err := b.PublishAsync(t.Context(), topics[:1], msgs[:1])(t.Context())[0]
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Permanent() || refused.Unroutable() {
		t.Errorf("after a long time: have error %v, want a refusal, neither permanent nor unroutable", err)
	}
	b.publisher.doubts.patience = doubtPatience
	r.payloads(queue)
	if err := b.Publish("account", newMessage("there is room")); err != nil {
		t.Fatal(err)
	}
	if err := b.Publish("account", newMessage("and no more")); !outage(err) {
		t.Errorf("full again: have error %v, want an outage", err)
	}
}

// TestSlowlyEmptiedQueue: a full queue that has room for one message now and then would be an outage for
// ever, for all topics, if each confirm made the next nack the first.
func TestSlowlyEmptiedQueue(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, queue := r.open(Config{}), r.queue()
	b.publisher.doubts.patience = time.Second
	r.bindShort(queue)
	topics, msgs := series("account", 5)
	start := time.Now()
	eventually(t, "a refusal", func() bool {
		r.payloads(queue)
		errs := b.PublishAsync(t.Context(), topics, msgs)(t.Context())
		if len(errs) != 5 || errs[0] != nil || errs[4] == nil {
			t.Fatalf("have errors %v, want the first message confirmed and the last one not", errs)
		}
		return !outage(errs[4])
	})
	if took := time.Since(start); took < time.Second {
		t.Errorf("refused after %v, want an outage for a second", took)
	}

	b.publisher.doubts.calm = time.Nanosecond // the last nack was long ago
	r.payloads(queue)
	if err := b.Publish("account", newMessage("there is room")); err != nil {
		t.Fatal(err)
	}
	if err := b.Publish("account", newMessage("and no more")); !outage(err) {
		t.Errorf("full again after a while: have error %v, want an outage", err)
	}
}

// TestVanishedQueue: a topic to all that had a queue and has none is not one that nobody wants: the queue's
// node may be down.
func TestVanishedQueue(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, other := r.open(Config{}), r.open(Config{})
	queue, another := r.queue(), r.queue()
	r.bind(other, queue, "account", "cqrs.q.account")
	publish := func(topic string) error {
		return errors.Join(b.PublishAsync(t.Context(), []string{topic}, []*message.Message{newMessage("x")})(t.Context())...)
	}
	r.deleteLater("lockstep.delay." + r.exchange + ".20")
	if err := b.PublishAfter(t.Context(), 20*time.Millisecond, "account", newMessage("x")); err != nil {
		t.Fatal(err) // says nothing of the topic's queues
	}
	for _, topic := range []string{"account", "cqrs.q.account"} {
		if err := publish(topic); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.ch.QueueDelete(queue, false, false, false); err != nil {
		t.Fatal(err)
	}
	if err := publish("account"); !outage(err) {
		t.Errorf("its queue has vanished: have error %v, want an outage", err)
	}
	var refused *RefusedError
	if err := publish("cqrs.q.account"); !errors.As(err, &refused) || !refused.Unroutable() {
		t.Errorf("the same, to one queue: have error %v, want unroutable", err)
	}
	if err := publish("author"); !errors.As(err, &refused) || !refused.Unroutable() {
		t.Errorf("a topic that never had a queue: have error %v, want unroutable", err)
	}
	b.publisher.doubts.patience = time.Nanosecond
	if err := publish("account"); !errors.As(err, &refused) || refused.Unroutable() || refused.Permanent() {
		t.Errorf("after a long time: have error %v, want a refusal, neither permanent nor unroutable", err)
	}
	r.bind(other, another, "account")
	if err := publish("account"); err != nil {
		t.Errorf("with another queue: %v", err)
	}
}
