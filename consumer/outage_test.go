package consumer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/internal/testdb"
)

// TestDatabaseOutagePauses: with a table gone nothing is acknowledged, given
// back or retried; when it is there again, all is applied.
func TestDatabaseOutagePauses(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		r, run := runAccounts(t, d, Table{MaxRetries: NoRetries})
		run.broker.deliver(save(1, 1, "one"))
		run.awaitAcked(t, 1)
		mustExec(t, r.db, "ALTER TABLE account_ref RENAME TO away")
		for i := range 20 {
			run.broker.deliver(save(i+2, 1, "later"))
		}
		eventually(t, "the consumer pauses", func() bool { return r.Stats().Pauses == 1 })
		if acked, nacked := run.broker.counts(); acked != 1 || nacked != 0 {
			t.Errorf("%d acknowledged and %d given back in the outage, want 1 and 0", acked, nacked)
		}
		mustExec(t, r.db, "ALTER TABLE away RENAME TO account_ref")
		run.awaitAcked(t, 21)
		if s := r.Stats(); s.Applied != 21 || s.Retried+s.Dead != 0 || s.Pauses != 1 {
			t.Errorf("have %+v, want 21 applied, 1 pause, no attempt spent", s)
		}
	})
}

// TestServerBreaksConnections: whenever a connection is lost, also at a commit,
// nothing is lost and no message pays for it.
func TestServerBreaksConnections(t *testing.T) {
	t.Parallel()
	admin, dsn := testdb.Postgres(t)
	own := reopen(t, dsn, "application_name", "lockstep broken connections")
	migrate(t, own, Postgres)
	mustExec(t, own, strings.ReplaceAll(accountTable, "%s", "timestamptz"))
	r := rigOn(t, own, map[string]Table{"account": {Name: "account_ref", Columns: accountColumns}})
	r.cfg.BatchSize, r.cfg.Now = 20, time.Now
	h := newHistory(1)
	for key := range 20 {
		h.lockstepLike(key, 50)
	}
	messages := h.deliver(50)
	broker := newTestBroker()
	run := r.start(t, broker, broker)
	for part := range slices.Chunk(messages, 1+len(messages)/5) {
		broker.deliver(part...)
		eventually(t, "a transaction", func() bool { return r.Stats().Batches > 0 })
		mustExec(t, admin, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'lockstep broken connections'`)
	}
	run.awaitAcked(t, len(messages))
	if err := run.stop(t); err != nil {
		t.Errorf("Run: %v", err)
	}
	have := dump(t, r.db, "SELECT cqrs_revision, cqrs_updated, id, note, title FROM account_ref")
	if diff := cmp.Diff(slices.Sorted(maps.Values(h.rows)), have); diff != "" {
		t.Errorf("the replica is not the master (-master +replica):\n%s", diff)
	}
	if s := r.Stats(); s.Retried+s.Dead > 0 {
		t.Errorf("have %+v, want no attempt spent", s)
	}
}

// TestStopInDatabaseOutage: everything in hand goes back to the queue.
func TestStopInDatabaseOutage(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		r, run := runAccounts(t, d, Table{})
		run.broker.deliver(save(1, 1, "one"))
		run.awaitAcked(t, 1)
		mustExec(t, r.db, "ALTER TABLE account_ref RENAME TO away")
		run.broker.deliver(save(2, 1, "two"), save(3, 1, "three"))
		eventually(t, "the consumer pauses", func() bool { return r.Stats().Pauses == 1 })
		eventually(t, "all are taken", func() bool { return r.Stats().Received == 3 })
		if err := run.stop(t); err != nil {
			t.Errorf("Run: %v", err)
		}
		run.broker.watchers.Wait()
		if acked, nacked := run.broker.counts(); acked != 1 || nacked != 2 {
			t.Errorf("%d acknowledged, %d given back, want 1 and 2", acked, nacked)
		}
	})
}

// TestStopWithUnstoredCopies: a message whose copy the broker does not take goes
// back to the queue.
func TestStopWithUnstoredCopies(t *testing.T) {
	t.Parallel()
	r, run := runAccounts(t, SQLite, Table{})
	mustExec(t, r.db, "CREATE UNIQUE INDEX titles ON account_ref (title)")
	run.broker.setRefuse(func(string, *message.Message) error { return errBrokerAway })
	run.broker.deliver(django("garbage"), lockstep(envelope("SAVE", "account", "{}")), save(1, 1, "one"), save(2, 1, "one"))
	run.awaitAcked(t, 1)
	eventually(t, "the consumer notices that the broker is away", func() bool { return run.Stats().Pauses == 1 })
	eventually(t, "all are taken", func() bool { return run.Stats().Received == 4 })
	if err := run.stop(t); err != nil {
		t.Errorf("Run: %v", err)
	}
	run.broker.watchers.Wait()
	if acked, nacked := run.broker.counts(); acked != 1 || nacked != 3 {
		t.Errorf("%d acknowledged, %d given back, want 1 and 3", acked, nacked)
	}
}

// stubEngine fails as it is told.
type stubEngine struct {
	engine // the rest is not asked for
	mu     sync.Mutex
	calls  int
	fail   func(ctx context.Context, call int) error
}

func (e *stubEngine) plan([]*incoming) any { return nil }
func (e *stubEngine) close() error         { return nil }

func (e *stubEngine) apply(ctx context.Context, batch []*incoming, _ any) (result, error) {
	e.mu.Lock()
	e.calls++
	call := e.calls
	e.mu.Unlock()
	return result{tally: tally{applied: len(batch)}}, e.fail(ctx, call)
}

// sqlState is an error of PostgreSQL.
type sqlState string

func (s sqlState) Error() string    { return "SQLSTATE " + string(s) }
func (s sqlState) SQLState() string { return string(s) }

// TestFailuresOfTransactions: conflicts are repeated at once, outages with a
// pause, a transaction's timeout is an outage, and none of them costs an attempt.
func TestFailuresOfTransactions(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		fail   func(ctx context.Context, call int) error
		calls  int
		pauses int64
	}{
		{"deadlocks", func(_ context.Context, call int) error {
			if call <= 5 {
				return sqlState("40P01")
			}
			return nil
		}, 6, 0},
		{"deadlocks without end", func(_ context.Context, call int) error {
			if call <= 12 {
				return sqlState("40001")
			}
			return nil
		}, 13, 1},
		{"shutdown of the server", func(_ context.Context, call int) error {
			if call <= 2 {
				return sqlState("57P01")
			}
			return nil
		}, 3, 1},
		{"timeout", func(ctx context.Context, call int) error {
			if call == 1 {
				<-ctx.Done()
				return fmt.Errorf("consumer: %w", ctx.Err())
			}
			return nil
		}, 2, 1},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := accountRig(t, SQLite)
			r.cfg.TransactionTimeout = 20 * time.Millisecond
			engine := &stubEngine{fail: tc.fail}
			run := &runner{Consumer: r.Consumer, engine: engine, catalogue: r.catalogue(), log: r.cfg.Logger, work: t.Context()}
			res, ok := run.apply(t.Context(), part{messages: r.read(t, []*message.Message{save(1, 1, "x")})})
			if !ok || res.applied != 1 || engine.calls != tc.calls || r.Stats().Pauses != tc.pauses {
				t.Errorf("have ok %t after %d calls and %d pauses, want true, %d, %d", ok, engine.calls, r.Stats().Pauses, tc.calls, tc.pauses)
			}
		})
	}
}

// TestDrainTimeout: a transaction that does not end is given up and said so.
func TestDrainTimeout(t *testing.T) {
	t.Parallel()
	r := accountRig(t, SQLite)
	r.cfg.DrainTimeout = 50 * time.Millisecond
	broker := newTestBroker()
	r.broker = broker
	entered := make(chan struct{})
	engine := &stubEngine{fail: func(ctx context.Context, _ int) error {
		close(entered)
		<-ctx.Done()
		return ctx.Err()
	}}
	ctx, cancel := context.WithCancel(t.Context())
	work, stop := drainContext(ctx, r.cfg.DrainTimeout)
	defer stop()
	run := &runner{Consumer: r.Consumer, engine: engine, catalogue: r.catalogue(), log: r.cfg.Logger, work: work}
	messages, err := broker.Subscribe(t.Context(), "replica")
	if err != nil {
		t.Fatal(err)
	}
	broker.deliver(save(1, 1, "one"))
	done := make(chan error, 1)
	go func() { done <- run.consume(ctx, messages) }()
	<-entered
	cancel()
	if err := <-done; !errors.Is(err, ErrDrain) {
		t.Errorf("have %v, want ErrDrain", err)
	}
	eventually(t, "the message goes back", func() bool { _, nacked := broker.counts(); return nacked == 1 })
}

// reachableBroker knows since when it has been without its server.
type reachableBroker struct {
	*testBroker
	since atomic.Pointer[time.Time]
}

func (b *reachableBroker) AwaySince() time.Time {
	if since := b.since.Load(); since != nil {
		return *since
	}
	return time.Time{}
}

// TestIdleWithoutItsBroker: a consumer that has nothing to send, and so no error to see,
// is not healthy either when its broker has been away for the limit.
func TestIdleWithoutItsBroker(t *testing.T) {
	t.Parallel()
	r := newRig(t, SQLite, map[string]Table{"account": {Name: "account_ref", Columns: accountColumns}}, accountTable)
	broker := &reachableBroker{testBroker: newTestBroker()}
	run := r.start(t, broker, broker.testBroker)
	eventually(t, "it is subscribed", func() bool { return run.Stats().Subscribed })
	now := time.Now()
	if s := run.Stats(); !s.PausedSince.IsZero() || s.Stalled(now, 0) != nil {
		t.Errorf("with its broker: paused since %v, %v; want neither", s.PausedSince, s.Stalled(now, 0))
	}
	since := now.Add(-time.Minute)
	broker.since.Store(&since)
	s := run.Stats()
	if !s.PausedSince.Equal(since) || s.Stalled(now, time.Second) == nil || s.Stalled(now, time.Hour) != nil {
		t.Errorf("without it for a minute: paused since %v, after a second %v, after an hour %v",
			s.PausedSince, s.Stalled(now, time.Second), s.Stalled(now, time.Hour))
	}
	if err := run.stop(t); err != nil {
		t.Error(err)
	}
	if s := run.Stats(); !s.PausedSince.IsZero() {
		t.Errorf("after Run: paused since %v, want never", s.PausedSince)
	}
}
