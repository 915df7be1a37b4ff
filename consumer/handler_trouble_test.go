package consumer

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/testdb"
)

// logBook is a log that a test can read while it is written.
type logBook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBook) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// deadLetter waits for the only dead letter of an author.
func (run *running) deadLetter(t *testing.T) *message.Message {
	t.Helper()
	const topic = "cqrs.dead_letter_replica.author"
	eventually(t, "a dead letter", func() bool { return len(run.broker.on(topic)) > 0 })
	if n := len(run.broker.on(topic)); n != 1 {
		t.Fatalf("%d dead letters", n)
	}
	return run.broker.on(topic)[0]
}

// TestHandlerFailures: whatever a handler does, its event is tried as often as it
// may be and ends in the dead letters with the reason, and others are handled.
func TestHandlerFailures(t *testing.T) {
	t.Parallel()
	type fn func(ctx context.Context, tx Tx) error
	tests := []struct {
		name, reason, text string
		do                 fn
	}{
		{"error", "retries", "boom", func(context.Context, Tx) error { return errors.New("boom") }},
		{"permanent", "permanent", "boom", func(context.Context, Tx) error { return Permanent(errors.New("boom")) }},
		{"panic", "retries", "panic: boom | goroutine", func(context.Context, Tx) error { panic("boom") }},
		{"nil panic", "retries", "panic", func(context.Context, Tx) error { panic(nil) }},
		{"exit", "retries", "ended its goroutine", func(context.Context, Tx) error { runtime.Goexit(); return nil }},
		{"timeout", "retries", "not done within 3s", func(ctx context.Context, _ Tx) error { <-ctx.Done(); return ctx.Err() }},
		{"timeout not told", "retries", "not done within 3s", func(ctx context.Context, tx Tx) error {
			<-ctx.Done()
			_, _ = tx.ExecContext(context.WithoutCancel(ctx), "INSERT INTO author_log VALUES (0, '', 'late', 0)")
			return nil
		}},
		{"wrong statement", "retries", "nowhere", func(ctx context.Context, tx Tx) error {
			_, err := tx.ExecContext(ctx, "INSERT INTO nowhere VALUES (1)")
			return err
		}},
		{"constraint", "retries", "kind", func(ctx context.Context, tx Tx) error {
			_, err := tx.ExecContext(ctx, "INSERT INTO author_log (id, kind, revision) VALUES (1, NULL, 1)")
			return err
		}},
		{"own timeout", "retries", "deadline", func(context.Context, Tx) error { return context.DeadlineExceeded }},
		{"own broken connection", "retries", "connection refused", func(context.Context, Tx) error {
			return errors.New("dial tcp 127.0.0.1:9: connection refused")
		}},
	}
	eachDialect(t, func(t *testing.T, d Dialect) {
		for _, tc := range tests {
			cfg := Config{}
			if strings.HasPrefix(tc.name, "timeout") {
				cfg.HandlerTimeout = 3 * time.Second // which is enough for the good one
			}
			r, run := runAuthors(t, d, cfg, func(ctx context.Context, tx Tx, ev Event[author]) error {
				if ev.Key == "1" {
					if err := logAuthor(ctx, tx, ev); err != nil {
						return err
					}
					return tc.do(ctx, tx)
				}
				return logAuthor(ctx, tx, ev)
			}, HandlerOptions{MaxRetries: 1})
			run.broker.requeue = true
			run.broker.deliver(authorEvent("SAVE", 1, 1, "bad"), authorEvent("SAVE", 2, 1, "good"))
			letter := run.deadLetter(t)
			text := letter.Metadata.Get(event.HeaderError)
			if letter.Metadata.Get(event.HeaderReason) != tc.reason || !strings.Contains(text, tc.text) || strings.Contains(text, "\n") || len(text) > maxHeaderStack {
				t.Errorf("%s: headers %v", tc.name, letter.Metadata)
			}
			want := int64(1)
			if tc.reason == "permanent" {
				want = 0
			}
			eventually(t, tc.name+": both are settled and counted", func() bool {
				s := r.Stats()
				return s.Applied == 1 && s.Dead > 0 && s.Retried >= want
			})
			if s := r.Stats(); s.Retried != want || s.Dead != 1 || s.Pauses != 0 {
				t.Errorf("%s: have %+v, want %d retried, 1 dead, no pause", tc.name, s, want)
			}
			if rows := r.authorLog(t); len(rows) != 1 || rows[0] != "kind=create id=2 name=good revision=1" {
				t.Errorf("%s: what stands is %q", tc.name, rows)
			}
			if err := run.stop(t); err != nil {
				t.Errorf("%s: Run: %v", tc.name, err)
			}
		}
	})
}

// TestHandlerHidesAnError: on PostgreSQL nothing works after a statement failed,
// so a handler that returns nil all the same has failed.
func TestHandlerHidesAnError(t *testing.T) {
	t.Parallel()
	r, run := runAuthors(t, Postgres, Config{}, func(ctx context.Context, tx Tx, _ Event[author]) error {
		_, _ = tx.ExecContext(ctx, "INSERT INTO author_log (id) VALUES (1)")
		return nil
	}, HandlerOptions{MaxRetries: NoRetries})
	run.broker.deliver(authorEvent("SAVE", 1, 1, "x"))
	if text := run.deadLetter(t).Metadata.Get(event.HeaderError); !strings.Contains(text, "returned nil although") {
		t.Errorf("the header says %q", text)
	}
	if n := dump(t, r.db, "SELECT 1 FROM replica_inbox"); len(n) != 0 {
		t.Errorf("the event counts as seen: %v", n)
	}
}

// TestHandlerLeavesRowsOpen: that must not stop the consumer.
func TestHandlerLeavesRowsOpen(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		r, run := runAuthors(t, d, Config{}, func(ctx context.Context, tx Tx, _ Event[author]) error {
			rows, err := tx.QueryContext(ctx, "SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3") //nolint:sqlclosecheck,rowserrcheck // that is the point
			if err == nil {
				rows.Next()
			}
			return err
		}, HandlerOptions{MaxRetries: NoRetries})
		run.broker.deliver(authorEvent("SAVE", 1, 1, "x"), authorEvent("SAVE", 2, 1, "x"))
		eventually(t, "all are settled", func() bool { s := r.Stats(); return s.Applied+s.Dead == 2 })
	})
}

// TestHandlerDeferredConstraint: what fails at the commit is the event's fault.
func TestHandlerDeferredConstraint(t *testing.T) {
	t.Parallel()
	r, run := runAuthors(t, Postgres, Config{}, func(ctx context.Context, tx Tx, _ Event[author]) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO child VALUES (7)")
		return err
	}, HandlerOptions{MaxRetries: NoRetries})
	mustExec(t, r.db, "CREATE TABLE parent (id bigint PRIMARY KEY); CREATE TABLE child (id bigint REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
	run.broker.deliver(authorEvent("SAVE", 1, 1, "x"))
	if text := run.deadLetter(t).Metadata.Get(event.HeaderError); !strings.Contains(text, "child_id_fkey") {
		t.Errorf("the header says %q", text)
	}
}

// TestHandlerOutage: while the database is away, no attempt is spent, whether the
// guard notices or the handler.
func TestHandlerOutage(t *testing.T) {
	t.Parallel()
	t.Run("guard", func(t *testing.T) {
		t.Parallel()
		eachDialect(t, func(t *testing.T, d Dialect) {
			var book logBook
			r, run := runAuthors(t, d, Config{Logger: book.logger()}, logAuthor, HandlerOptions{MaxRetries: NoRetries})
			run.broker.deliver(authorEvent("SAVE", 1, 1, "x"))
			run.awaitAcked(t, 1)
			mustExec(t, r.db, "ALTER TABLE replica_inbox RENAME TO away")
			for key := range 10 {
				run.broker.deliver(authorEvent("SAVE", key+2, 1, "x"))
			}
			// All of them: for one that met the outage and comes to wait when the others go on, there is another.
			eventually(t, "all workers wait", func() bool {
				r.outages.mu.Lock()
				defer r.outages.mu.Unlock()
				one := r.outages.all["database"]
				return one != nil && one.waiting == min(10, defaultWorkers)
			})
			mustExec(t, r.db, "ALTER TABLE away RENAME TO replica_inbox")
			run.awaitAcked(t, 11)
			if s := r.Stats(); s.Applied != 11 || s.Retried+s.Dead != 0 || s.Pauses != 1 {
				t.Errorf("have %+v, want 11 applied and 1 pause", s)
			}
			if n := strings.Count(book.String(), "waiting for the database"); n != 1 {
				t.Errorf("said %d times that it waits", n)
			}
		})
	})
	for _, d := range []Dialect{Postgres, MySQL} {
		t.Run("handler, "+string(d), func(t *testing.T) {
			t.Parallel()
			handlerLosesItsConnection(t, d)
		})
	}
}

// lossy opens a database, and returns what breaks all connections but the test's own.
func lossy(t *testing.T, d Dialect) (own *sql.DB, kill func()) {
	t.Helper()
	if d == Postgres {
		admin, dsn := testdb.Postgres(t)
		return reopen(t, dsn, "application_name", "lockstep broken handlers"), func() {
			mustExec(t, admin, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'lockstep broken handlers'")
		}
	}
	admin, dsn := testdb.MariaDB(t)
	own, err := sql.Open("mysql", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = own.Close() })
	admin.SetMaxOpenConns(1)
	return own, func() {
		var ids []string
		eventually(t, "there is a connection to break", func() bool {
			ids = dump(t, admin, "SELECT id FROM information_schema.processlist WHERE db = database() AND id <> connection_id()")
			return len(ids) > 0
		})
		for _, id := range ids {
			_, _ = admin.ExecContext(t.Context(), "KILL "+strings.TrimPrefix(id, "id=")) // unless it has ended by itself
		}
	}
}

func handlerLosesItsConnection(t *testing.T, d Dialect) {
	own, kill := lossy(t, d)
	migrate(t, own, d)
	mustExec(t, own, authorLog)
	c, err := New(own, newTestBroker(), Config{Queue: "replica"})
	if err != nil {
		t.Fatal(err)
	}
	sleep := map[Dialect]string{Postgres: "SELECT pg_sleep(0.05)", MySQL: "DO SLEEP(0.05)"}[d]
	in := make(chan struct{}, 1000)
	if err := Handle(c, "author", func(ctx context.Context, tx Tx, ev Event[author]) error {
		in <- struct{}{}
		if _, err := tx.ExecContext(ctx, sleep); err != nil {
			return errors.New("hidden by the handler")
		}
		return logAuthor(ctx, tx, ev)
	}, HandlerOptions{MaxRetries: NoRetries}); err != nil {
		t.Fatal(err)
	}
	r := &rig{Consumer: c}
	broker := newTestBroker()
	run := r.start(t, broker, broker)
	for key := range 40 {
		broker.deliver(authorEvent("SAVE", key, 1, "x"))
	}
	for range 3 {
		<-in
		kill()
	}
	run.awaitAcked(t, 40)
	// What was committed just as its connection broke is a duplicate when it is tried again.
	if s := r.Stats(); s.Applied+s.Duplicate != 40 || s.Retried+s.Dead != 0 {
		t.Errorf("have %+v, want 40 applied, or found applied, and no attempt spent", s)
	}
	if n := len(r.authorLog(t)); n != 40 {
		t.Errorf("%d calls stand, want 40", n)
	}
}

// TestHandlerNeverReturns: its key waits, other keys do not; Run ends, says so,
// and the event goes back.
func TestHandlerNeverReturns(t *testing.T) {
	t.Parallel()
	var book logBook
	release, probe, probed := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	defer close(release)
	db := openDB(t, Postgres, authorLog)
	c, err := New(db, newTestBroker(), Config{Queue: "replica", HandlerTimeout: 3 * time.Second, DrainTimeout: 500 * time.Millisecond, Logger: book.logger()})
	if err != nil {
		t.Fatal(err)
	}
	if err := Handle(c, "author", func(ctx context.Context, tx Tx, ev Event[author]) error {
		if ev.Key == "1" {
			<-probe
			_, err := tx.ExecContext(context.WithoutCancel(ctx), "SELECT 1")
			probed <- err
			<-release
		}
		return logAuthor(ctx, tx, ev)
	}); err != nil {
		t.Fatal(err)
	}
	r := &rig{Consumer: c}
	broker := newTestBroker()
	run := r.start(t, broker, broker)
	broker.deliver(authorEvent("SAVE", 1, 1, "stuck"), authorEvent("SAVE", 1, 2, "behind"), authorEvent("SAVE", 2, 1, "good"))
	run.awaitAcked(t, 1)
	eventually(t, "it is logged", func() bool { return strings.Contains(book.String(), "a handler goes on although its time is up") })
	close(probe)
	if err := <-probed; err == nil {
		t.Error("the handler still has a transaction")
	}
	if err := run.stop(t); !errors.Is(err, ErrDrain) || !strings.Contains(err.Error(), "author/1") {
		t.Errorf("Run: %v, want ErrDrain that names author/1", err)
	}
	eventually(t, "both go back", func() bool { _, nacked := broker.counts(); return nacked == 2 })
	if rows := r.authorLog(t); len(rows) != 1 {
		t.Errorf("what stands is %q", rows)
	}
}

// TestHandlersDrain: at the end of Run, what runs is finished and what waits goes back.
func TestHandlersDrain(t *testing.T) {
	t.Parallel()
	started, finish := make(chan struct{}), make(chan struct{})
	r, run := runAuthors(t, Postgres, Config{Workers: 1}, func(ctx context.Context, tx Tx, ev Event[author]) error {
		close(started)
		<-finish
		return logAuthor(ctx, tx, ev)
	})
	run.broker.deliver(authorEvent("SAVE", 1, 1, "runs"), authorEvent("SAVE", 1, 2, "waits"), authorEvent("SAVE", 2, 1, "waits"))
	<-started
	eventually(t, "all are taken", func() bool { return r.Stats().Received == 3 })
	run.cancel()
	eventually(t, "what waits goes back", func() bool { _, nacked := run.broker.counts(); return nacked == 2 })
	close(finish)
	if err := run.stop(t); err != nil {
		t.Errorf("Run: %v", err)
	}
	run.broker.watchers.Wait()
	if acked, _ := run.broker.counts(); acked != 1 || len(r.authorLog(t)) != 1 {
		t.Errorf("%d acknowledged, %q stands", acked, r.authorLog(t))
	}
}

// TestNoDB: called in order for each key, for duplicates too, tried again by the
// policy, without a connection.
func TestNoDB(t *testing.T) {
	t.Parallel()
	db, _ := testdb.SQLite(t)
	migrate(t, db, SQLite)
	c, err := New(db, newTestBroker(), Config{Queue: "replica", HandlerTimeout: 4 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	log := newCallLog()
	err = HandleNoDB(c, "author", func(ctx context.Context, ev Event[author]) error {
		defer log.enter(ev.Key, ev.Revision)()
		linger(ctx, time.Millisecond)
		switch ev.Data.Name {
		case "database": // somebody else's
			return sql.ErrConnDone
		case "slow":
			<-ctx.Done() // and does its work all the same
		}
		return nil
	}, HandlerOptions{MaxRetries: 1})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Consumer: c}
	broker := newTestBroker()
	broker.requeue = true
	run := r.start(t, broker, broker)
	var n int
	for revision := 1; revision <= 5; revision++ {
		for key := range 20 {
			broker.deliver(authorEvent("SAVE", key, revision, "x"))
			n++
		}
	}
	broker.deliver(authorEvent("SAVE", 1, 5, "x"), authorEvent("SAVE", 100, 1, "slow"), authorEvent("SAVE", 101, 1, "database"))
	run.deadLetter(t)
	eventually(t, "all are settled", func() bool { acked, _ := broker.counts(); return acked == n+4 })
	if s := r.Stats(); s.Applied != int64(n+2) || s.Late != 1 || s.Retried != 1 || s.Dead != 1 || s.Pauses != 0 {
		t.Errorf("have %+v, want %d applied, 1 late, 1 retried, 1 dead", s, n+2)
	}
	if log.overlaps > 0 || log.most < 2 || log.most > defaultWorkers { // a busy machine may never bring all of them together
		t.Errorf("%d overlaps, %d at a time; want 0, and up to %d", log.overlaps, log.most, defaultWorkers)
	}
	if n := dump(t, db, "SELECT 1 FROM replica_inbox"); len(n) != 0 {
		t.Errorf("%d notes of what was seen", len(n))
	}
}
