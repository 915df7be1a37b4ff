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
)

func numbers(n int) (want []string) {
	for i := range n {
		want = append(want, fmt.Sprint(i))
	}
	return want
}

func TestOrderOverAPipelinedRun(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, queue := r.bound(Config{Window: 256}, "account")
	messages := r.subscribe(b, queue)

	topics, msgs := series("account", 5000)
	var waits []func(context.Context) []error
	for i := 0; i < len(msgs); i += 500 { // several calls in flight, more messages than the window
		waits = append(waits, b.PublishAsync(t.Context(), topics[i:i+500], msgs[i:i+500]))
	}
	have := r.receive(messages, len(msgs))
	if diff := cmp.Diff(numbers(5000), have); diff != "" {
		t.Errorf("messages out of order (-want +have):\n%s", diff)
	}
	for i, wait := range waits {
		if errs := wait(t.Context()); errs != nil {
			t.Errorf("call %d: have errors %v, want none", i, errors.Join(errs...))
		}
	}
}

func TestMixedTopicsInOneCall(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b := r.open(Config{})
	accounts, authors := r.queue(), r.queue()
	r.bind(b, accounts, "account", "cqrs."+accounts+".account")
	r.bind(b, authors, "author")

	topics := []string{"account", "author", "nobody", "cqrs." + accounts + ".account", "author"}
	_, msgs := series("", len(topics))
	errs := b.PublishAsync(t.Context(), topics, msgs)(t.Context())
	if len(errs) != len(topics) {
		t.Fatalf("have %d errors, want %d", len(errs), len(topics))
	}
	for i, err := range errs {
		if (err != nil) != (topics[i] == "nobody") {
			t.Errorf("topic %s: have error %v", topics[i], err)
		}
	}
	if diff := cmp.Diff([]string{"0", "3"}, r.payloads(accounts)); diff != "" {
		t.Errorf("accounts (-want +have):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"1", "4"}, r.payloads(authors)); diff != "" {
		t.Errorf("authors (-want +have):\n%s", diff)
	}
}

// TestReturnedMessages mixes many routable and unroutable messages, some under one UUID, so that a
// return taken for the wrong message, or after its confirm, shows.
func TestReturnedMessages(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, queue := r.bound(Config{}, "account")
	var topics []string
	var msgs []*message.Message
	for i := range 3000 {
		topics = append(topics, []string{"account", "account", "lost", "lost.too"}[i*i%7%4])
		msg := newMessage(fmt.Sprint(i))
		if i%5 == 0 {
			msg.UUID = "the-same"
		}
		msgs = append(msgs, msg)
	}
	errs := b.PublishAsync(t.Context(), topics, msgs)(t.Context())
	var want []string
	for i, topic := range topics {
		var refused interface {
			error
			Permanent() bool
			Unroutable() bool
		}
		switch {
		case topic == "account":
			want = append(want, fmt.Sprint(i))
			if errs[i] != nil {
				t.Fatalf("message %d: have error %v, want confirmed", i, errs[i])
			}
		case !errors.As(errs[i], &refused) || !refused.Unroutable() || refused.Permanent():
			t.Fatalf("message %d on %s: have error %v, want unroutable, not permanent", i, topic, errs[i])
		case !strings.Contains(refused.Error(), topic):
			t.Errorf("have error %q, want one that names the topic %s", refused, topic)
		}
	}
	if diff := cmp.Diff(want, r.payloads(queue)); diff != "" {
		t.Errorf("queue (-want +have):\n%s", diff)
	}
}

func TestPublishIgnoresThatNoQueueIsBound(t *testing.T) {
	t.Parallel()
	b := newRig(t).open(Config{})
	if err := b.Publish("nobody", newMessage("x"), newMessage("y")); err != nil {
		t.Errorf("to all: have error %v, want none, as with Watermill's other brokers", err)
	}
	var refused *RefusedError
	if err := b.Publish("cqrs.dead_letter_q.account", newMessage("x")); !errors.As(err, &refused) || !refused.Unroutable() {
		t.Errorf("to one queue: have error %v, want unroutable: a dead letter would be lost", err)
	}
}

func TestNothingToPublish(t *testing.T) {
	t.Parallel()
	b := newRig(t).open(Config{})
	if errs := b.PublishAsync(t.Context(), nil, nil)(t.Context()); errs != nil {
		t.Errorf("no messages: have %v, want nil", errs)
	}
	errs := b.PublishAsync(t.Context(), nil, []*message.Message{newMessage("x")})(t.Context())
	if len(errs) != 1 || errs[0] == nil {
		t.Errorf("a message without topic: have %v, want one error", errs)
	}
}

// TestConcurrentPublishersKeepTheirOrder is also what -race looks at.
func TestConcurrentPublishersKeepTheirOrder(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, queue := r.bound(Config{Window: 32}, "a", "b", "c", "lost")
	done := make(chan error)
	for _, topic := range []string{"a", "b", "c"} {
		go func() {
			for i := range 20 {
				topics, msgs := series(topic, 20)
				for j := range msgs {
					msgs[j].Payload = fmt.Appendf(nil, "%s %04d", topic, i*20+j)
				}
				if errs := b.PublishAsync(t.Context(), topics, msgs)(t.Context()); errs != nil {
					done <- errors.Join(errs...)
					return
				}
			}
			done <- nil
		}()
	}
	for range 3 {
		if err := <-done; err != nil {
			t.Errorf("publish: %v", err)
		}
	}
	last := map[string]string{}
	have := r.payloads(queue)
	for _, payload := range have {
		topic, _, _ := strings.Cut(payload, " ")
		if payload <= last[topic] {
			t.Errorf("%q came after %q", payload, last[topic])
		}
		last[topic] = payload
	}
	if len(have) != 1200 {
		t.Errorf("have %d messages, want 1200", len(have))
	}
}

func TestClosedBroker(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, queue := r.bound(Config{}, "account")
	messages := r.subscribe(b, queue)
	for range 2 {
		if err := b.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
	}
	if msg, ok := <-messages; ok {
		t.Errorf("have message %q after Close, want a closed channel", msg.Payload)
	}
	msg := newMessage("x")
	_, subscribed := b.Subscribe(t.Context(), queue)
	for what, err := range map[string]error{
		"Publish":             b.Publish("account", msg),
		"PublishAsync":        b.PublishAsync(t.Context(), []string{"account"}, []*message.Message{msg})(t.Context())[0],
		"PublishAfter":        b.PublishAfter(t.Context(), time.Second, "account", msg),
		"Bind":                b.Bind(t.Context(), queue, "account"),
		"Subscribe":           subscribed,
		"SubscribeInitialize": b.SubscribeInitialize("other"),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: have error %v, want %v", what, err, ErrClosed)
		}
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	proxy, url := r.proxied()
	b := r.openAt(url, Config{})
	if err := b.Publish("a", newMessage("opens the channel")); err != nil {
		t.Fatal(err)
	}
	proxy.stall()
	ctx, cancel := context.WithCancel(t.Context())
	wait := b.PublishAsync(ctx, []string{"a"}, []*message.Message{newMessage("x")})
	eventually(t, "sent", func() bool { return b.publisher.last().inFlight() == 1 })
	cancel()
	errs := wait(ctx)
	if err := b.Close(); err != nil { // the end of the channel does not change what was said
		t.Fatal(err)
	}
	if len(errs) != 1 || !errors.Is(errs[0], context.Canceled) {
		t.Errorf("have %v, want one error: %v", errs, context.Canceled)
	}
}
