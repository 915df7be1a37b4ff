package memory_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/broker/brokertest"
	"github.com/lockstep-go/lockstep/broker/memory"
)

func open(t *testing.T, cfg memory.Config) *memory.Broker {
	t.Helper()
	b, err := memory.Open(t.Context(), cfg)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return b
}

func TestContract(t *testing.T) {
	t.Parallel()
	brokertest.Run(t, func(t *testing.T) brokertest.Adapter { return open(t, memory.Config{}) })
}

// client is one of several users of a Broker: its Close ends only its own
// subscriptions. Watermill's suite wants to close and open clients of a broker
// that goes on.
type client struct {
	*memory.Broker

	mu     sync.Mutex
	cancel []func()
}

func (c *client) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	ctx, cancel := context.WithCancel(ctx)
	messages, err := c.Broker.Subscribe(ctx, topic)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cancel = append(c.cancel, func() {
		cancel()
		for msg := range messages {
			msg.Nack()
		}
	})
	return messages, err
}

func (c *client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cancel := range c.cancel {
		cancel()
	}
	c.cancel = nil
	return nil
}

// TestWatermill is Watermill's suite. The order is guaranteed, but the suite
// takes that for "one message at a time", which is only true of Prefetch 1.
func TestWatermill(t *testing.T) {
	t.Parallel()
	run := func(t *testing.T, cfg memory.Config, features tests.Features) {
		b := open(t, cfg)
		t.Cleanup(func() {
			if err := b.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
		features.Persistent = true
		tests.TestPubSub(t, features, func(*testing.T) (message.Publisher, message.Subscriber) {
			return &client{Broker: b}, &client{Broker: b}
		}, nil)
	}
	t.Run("DefaultPrefetch", func(t *testing.T) {
		t.Parallel()
		run(t, memory.Config{}, tests.Features{})
	})
	t.Run("PrefetchOne", func(t *testing.T) {
		t.Parallel()
		run(t, memory.Config{Prefetch: 1}, tests.Features{
			GuaranteedOrder: true, GuaranteedOrderWithSingleSubscriber: true, ForceShort: true,
		})
	})
}

// TestSynctest shows that a test can let hours pass in no time, and that Close
// leaves no goroutine or timer behind.
func TestSynctest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := open(t, memory.Config{})
		if err := b.Bind(t.Context(), "billing", "account"); err != nil {
			t.Fatalf("Bind: %v", err)
		}
		messages, err := b.Subscribe(t.Context(), "billing")
		if err != nil {
			t.Fatalf("Subscribe: %v", err)
		}
		start := time.Now()
		for _, delay := range []time.Duration{24 * time.Hour, time.Millisecond, time.Hour} {
			if err := b.PublishAfter(t.Context(), delay, "account", message.NewMessage("", []byte(delay.String()))); err != nil {
				t.Fatalf("PublishAfter: %v", err)
			}
		}
		for _, want := range []time.Duration{time.Millisecond, time.Hour} {
			msg := <-messages
			if have := time.Since(start); have != want || string(msg.Payload) != want.String() {
				t.Errorf("message %s came after %v, want %v", msg.Payload, have, want)
			}
			msg.Ack()
		}
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
}

// TestRequeuedKeepsItsPlace: a nacked message comes before those behind it.
func TestRequeuedKeepsItsPlace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := open(t, memory.Config{Prefetch: 1})
		defer b.Close() // ends the subscription
		if err := b.SubscribeInitialize("q"); err != nil {
			t.Fatalf("SubscribeInitialize: %v", err)
		}
		for _, body := range []string{"0", "1", "2"} {
			if err := b.Publish("q", message.NewMessage("", []byte(body))); err != nil {
				t.Fatalf("Publish: %v", err)
			}
		}
		messages, err := b.Subscribe(t.Context(), "q")
		if err != nil {
			t.Fatalf("Subscribe: %v", err)
		}
		var have []string
		for i := range 5 {
			msg := <-messages
			have = append(have, string(msg.Payload))
			if i < 2 {
				msg.Nack()
			} else {
				msg.Ack()
			}
		}
		if diff := cmp.Diff([]string{"0", "0", "0", "1", "2"}, have); diff != "" {
			t.Errorf("order (-want +have):\n%s", diff)
		}
	})
}

// TestCopies: what sender and receivers do to their messages concerns nobody else.
func TestCopies(t *testing.T) {
	t.Parallel()
	b := open(t, memory.Config{})
	defer b.Close() // ends the subscriptions
	for _, queue := range []string{"one", "two"} {
		if err := b.Bind(t.Context(), queue, "account"); err != nil {
			t.Fatalf("Bind: %v", err)
		}
	}
	sent := message.NewMessage("id", []byte("body"))
	sent.Metadata.Set("k", "v")
	if err := b.Publish("account", sent); err != nil {
		t.Fatalf("Publish: %v", err)
	}
	sent.Payload[0], sent.Metadata["k"] = 'X', "X"
	for _, queue := range []string{"one", "two"} {
		messages, err := b.Subscribe(t.Context(), queue)
		if err != nil {
			t.Fatalf("Subscribe: %v", err)
		}
		msg := <-messages
		if string(msg.Payload) != "body" || msg.Metadata["k"] != "v" {
			t.Errorf("%s: body %q, k %q", queue, msg.Payload, msg.Metadata["k"])
		}
		msg.Payload[0], msg.Metadata["k"] = 'Y', "Y"
		msg.Ack()
	}
}

func TestOpenRejects(t *testing.T) {
	t.Parallel()
	if _, err := memory.Open(t.Context(), memory.Config{Prefetch: -1}); err == nil {
		t.Error("Open with a negative Prefetch: no error")
	}
}
