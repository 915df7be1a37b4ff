package consumer_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/broker/jetstream"
	"github.com/lockstep-go/lockstep/broker/memory"
	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/migrations"
)

// TestHandlersOnOtherBrokers: retries come back after their delay, to this queue
// only, and dead letters carry the reason, whatever the broker.
func TestHandlersOnOtherBrokers(t *testing.T) {
	t.Parallel()
	brokers := map[string]func(t *testing.T) consumer.Broker{
		"memory": func(t *testing.T) consumer.Broker {
			t.Helper()
			b, err := memory.Open(t.Context(), memory.Config{})
			if err != nil {
				t.Fatal(err)
			}
			return b
		},
		"jetstream": func(t *testing.T) consumer.Broker {
			t.Helper()
			b, err := jetstream.Open(t.Context(), "jetstream+embedded://"+t.TempDir(), jetstream.Config{})
			if err != nil {
				t.Fatal(err)
			}
			return b
		},
	}
	for name, open := range brokers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := open(t)
			t.Cleanup(func() { _ = b.Close() })
			db, _ := testdb.SQLite(t)
			if _, err := migrations.Up(t.Context(), db, consumer.SQLite); err != nil {
				t.Fatal(err)
			}
			const delay = 300 * time.Millisecond
			c, err := consumer.New(db, b, consumer.Config{Queue: "billing"})
			if err != nil {
				t.Fatal(err)
			}
			attempts := make(chan time.Time, 10)
			err = consumer.Handle(c, "writer", func(_ context.Context, _ consumer.Tx, ev consumer.Event[writer]) error {
				if ev.Data.Name != "bad" {
					return nil
				}
				attempts <- time.Now()
				panic("boom")
			}, consumer.HandlerOptions{MaxRetries: 1, RetryDelay: delay})
			if err != nil {
				t.Fatal(err)
			}
			bystander, ok := b.(consumer.Binder)
			if err := bystander.Bind(t.Context(), "other", event.QueueTopics("other", "writer")...); !ok || err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			if err := c.Bind(ctx); err != nil {
				t.Fatal(err)
			}
			go func() { done <- c.Run(ctx) }()
			for key, name := range []string{"good", "bad", "good"} {
				if err := b.Publish("writer", message.NewMessage(watermill.NewUUID(), []byte(body("SAVE", "writer", key, 1, name)))); err != nil {
					t.Fatal(err)
				}
			}
			letters, err := b.Subscribe(ctx, event.DeadLetterQueue("billing"))
			if err != nil {
				t.Fatal(err)
			}
			select {
			case letter := <-letters:
				letter.Ack()
				if letter.Metadata.Get(event.HeaderReason) != "retries" || len(letter.Metadata.Get(event.HeaderError)) < 200 {
					t.Errorf("headers %v", letter.Metadata)
				}
			case <-time.After(patience):
				t.Fatal("no dead letter")
			}
			first := <-attempts
			if pause := (<-attempts).Sub(first); pause < delay || len(attempts) > 0 {
				t.Errorf("the second attempt came after %s, and %d more; want %s and none", pause, len(attempts), delay)
			}
			soon(t, "the others are applied", func() bool { return c.Stats().Applied == 2 })
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
			seen, err := b.Subscribe(t.Context(), "other")
			if err != nil {
				t.Fatal(err)
			}
			if n := drained(t, seen, 3); n != 3 {
				t.Errorf("another queue has %d messages, want the 3 that were sent to all", n)
			}
		})
	}
}

// drained counts what comes until half a second passes without a message, once there
// are as many as are to come.
func drained(t *testing.T, messages <-chan *message.Message, want int) (n int) {
	t.Helper()
	for {
		quiet := 500 * time.Millisecond
		if n < want {
			quiet = patience
		}
		select {
		case msg := <-messages:
			msg.Ack()
			n++
		case <-time.After(quiet):
			return n
		case <-t.Context().Done():
			t.Fatal(errors.New("the test is over"))
		}
	}
}
