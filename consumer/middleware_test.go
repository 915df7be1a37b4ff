package consumer

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/google/go-cmp/cmp"
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

// TestMiddlewaresKeepPromises: with each of Watermill's middlewares that may stand
// before a mounted consumer, alone and all together, messages end as without them.
func TestMiddlewaresKeepPromises(t *testing.T) {
	t.Parallel()
	broker := newTestBroker()
	poisoned, err := middleware.PoisonQueueWithFilter(broker, "poison", func(err error) bool {
		return !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
	})
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]message.HandlerMiddleware{
		"CorrelationID": middleware.CorrelationID,
		"Recoverer":     middleware.Recoverer,
		"Duplicator":    middleware.Duplicator,
		"Retry":         middleware.Retry{MaxRetries: 3, InitialInterval: time.Millisecond}.Middleware,
		"Timeout":       middleware.Timeout(time.Minute),
		"Throttle":      middleware.NewThrottle(1000, time.Second).Middleware,
		"PoisonQueue":   poisoned,
	}
	all := make([]message.HandlerMiddleware, 0, len(kinds))
	for _, name := range slices.Sorted(maps.Keys(kinds)) {
		all = append(all, kinds[name])
	}
	for name, chain := range kinds {
		requirePromises(t, name, chain)
	}
	requirePromises(t, "all", func(h message.HandlerFunc) message.HandlerFunc {
		for _, m := range all {
			h = m(h)
		}
		return h
	})
	if n := len(broker.on("poison")); n != 0 {
		t.Errorf("%d messages came to the poison queue, want none: the consumer has dead letters", n)
	}
}

// requirePromises mounts a consumer behind a middleware and fails unless each kind of
// message ends as it should.
func requirePromises(t *testing.T, name string, chain message.HandlerMiddleware) {
	t.Helper()
	r := accountRig(t, SQLite)
	if err := Handle(r.Consumer, "author", func(context.Context, Tx, Event[author]) error { panic("boom") }); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	broker := newTestBroker()
	r.broker = broker
	handle := chain(func(msg *message.Message) ([]*message.Message, error) { return nil, r.HandleMessage(msg) })
	for _, m := range []*message.Message{
		save(1, 2, "two"), save(1, 2, "again"), save(1, 1, "late"), remove(2, 5), save(2, 4, "late"),
		lockstep(envelope("SAVE", "account", "{}")), django("garbage"), authorEvent("SAVE", 1, 1, "x"),
	} {
		if produced, err := handle(m); err != nil || len(produced) > 0 {
			t.Errorf("%s: %s: %v, and %d messages produced", name, m.Payload, err, len(produced))
		}
	}
	times := 1
	if name == "Duplicator" || name == "all" {
		times = 2 // each message is handled twice, a failing one fails twice
	}
	have := map[string]int{
		"misfits": len(broker.on("cqrs.replica.account")), "panics": len(broker.on("cqrs.replica.author")), "dead": len(broker.on(deadUnknown)),
	}
	if diff := cmp.Diff(map[string]int{"misfits": times, "panics": times, "dead": times}, have); diff != "" {
		t.Errorf("%s: copies (-want +have):\n%s", name, diff)
	}
	if diff := cmp.Diff([]string{"id=1 title=two"}, r.titles(t)); diff != "" {
		t.Errorf("%s: rows (-want +have):\n%s", name, diff)
	}
}

// TestMiddlewaresThatLose: what a middleware takes for seen, or acknowledges before
// it was handled, never comes again. Such do not go with a consumer that needs none.
func TestMiddlewaresThatLose(t *testing.T) {
	t.Parallel()
	for name, lossy := range map[string]message.HandlerMiddleware{
		"Deduplicator": (&middleware.Deduplicator{}).Middleware,
		"InstantAck":   middleware.InstantAck,
	} {
		r := accountRig(t, SQLite)
		handle := lossy(func(msg *message.Message) ([]*message.Message, error) { return nil, r.HandleMessage(msg) })
		if err := r.Pause("account"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		m := save(1, 1, "one")
		m.SetContext(ctx)
		_, err := handle(m) // as when a router closes: it gives the message back
		if err == nil {
			t.Fatalf("%s: the message was applied although its entity is paused", name)
		}
		if err := r.Resume("account"); err != nil {
			t.Fatal(err)
		}
		if name == "Deduplicator" {
			if _, err := handle(save(1, 1, "one")); err != nil {
				t.Error(err)
			}
		} else if m.Nack() {
			t.Error("the message could still be given back")
		}
		if rows := r.titles(t); len(rows) != 0 {
			t.Errorf("%s lost nothing: %v. Then the documentation is wrong about it", name, rows)
		}
		_ = r.Close()
	}
}
