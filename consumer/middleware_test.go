package consumer

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
)

// TestMiddlewaresSee: a message that waits until its time is up comes to the
// middlewares as an error of its context, by which a poison queue leaves it out; a
// panic comes to none of them.
func TestMiddlewaresSee(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		r := authorConsumer(t, d, Config{}, func(context.Context, Tx, Event[author]) error { panic("boom") })
		broker := newTestBroker()
		r.broker = broker
		defer func() {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}()
		poisoned, err := middleware.PoisonQueueWithFilter(broker, "poison", func(err error) bool {
			return !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
		})
		if err != nil {
			t.Fatal(err)
		}
		handle := func(msg *message.Message) ([]*message.Message, error) { return nil, r.HandleMessage(msg) }
		if _, err := poisoned(middleware.Recoverer(handle))(authorEvent("SAVE", 1, 1, "x")); err != nil {
			t.Errorf("a panic came to the middlewares: %v", err)
		}
		if n := len(broker.on("cqrs.replica.author")); n != 1 {
			t.Errorf("have %d copies for another attempt, want 1", n)
		}
		o, err := r.Apply(t.Context(), authorEvent("SAVE", 1, 1, "x"))
		if panicked := (*PanicError)(nil); err != nil || o.Result != Retried || !errors.As(o.Err, &panicked) {
			t.Errorf("Apply: %+v, %v, want a PanicError", o, err)
		}

		if err := r.Pause("author"); err != nil {
			t.Fatal(err)
		}
		_, err = poisoned(middleware.Timeout(50 * time.Millisecond)(handle))(authorEvent("SAVE", 1, 1, "x"))
		if !errors.Is(err, context.DeadlineExceeded) || len(broker.on("poison")) != 0 {
			t.Errorf("have %v and %d poisoned, want the context's error and none", err, len(broker.on("poison")))
		}
	})
}
