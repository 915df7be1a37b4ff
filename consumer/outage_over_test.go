package consumer

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// wantOneOutage checks what has been told by now of an outage that nobody waits for.
func (r *rig) wantOneOutage(t *testing.T, when, said string) {
	t.Helper()
	s := r.Stats()
	if s.Pauses != 1 || !s.PausedSince.IsZero() || s.Stuck != 0 || s.Stalled(time.Now().Add(time.Hour), time.Minute) != nil {
		t.Errorf("%s: %d outages, paused since %v, %d stuck; want 1, never, 0", when, s.Pauses, s.PausedSince, s.Stuck)
	}
	if begun, over := strings.Count(said, `msg="waiting for the database"`), strings.Count(said, `msg="the database works again"`); begun != 1 || over > begun {
		t.Errorf("%s: it says %d times that it waits and %d times that it need not, want 1 each:\n%s", when, begun, over, said)
	}
}

// TestOutageEndsAfterAnExpiry: an event that expires while it waits for the database
// leaves no outage behind.
func TestOutageEndsAfterAnExpiry(t *testing.T) {
	t.Parallel()
	var book logBook
	var mu sync.Mutex
	now := at(1)
	cfg := Config{Logger: book.logger(), Now: func() time.Time { mu.Lock(); defer mu.Unlock(); return now }}
	r, run := runAuthors(t, SQLite, cfg, logAuthor)
	eventually(t, "it has seen its tables", func() bool { return r.Stats().Subscribed })
	mustExec(t, r.db, "ALTER TABLE replica_inbox RENAME TO away")
	ev := authorEvent("SAVE", 1, 1, "x")
	ev.Payload = []byte(strings.Replace(string(ev.Payload), `"expires":null`, `"expires":"2090-01-01T00:00:00+00:00"`, 1))
	run.broker.deliver(ev)
	eventually(t, "the consumer pauses", func() bool { return r.Stats().Pauses == 1 })
	mu.Lock()
	now = time.Date(2091, 1, 1, 0, 0, 0, 0, time.UTC)
	mu.Unlock()
	run.deadLetter(t)
	eventually(t, "it is settled", func() bool { return r.Stats().Dead == 1 })
	r.wantOneOutage(t, "when nobody waits", book.String())

	mustExec(t, r.db, "ALTER TABLE away RENAME TO replica_inbox")
	run.broker.deliver(authorEvent("SAVE", 2, 1, "x"))
	run.awaitAcked(t, 2)
	r.wantOneOutage(t, "when the database is back", book.String())
	if !strings.Contains(book.String(), "works again") {
		t.Errorf("it does not say that the database works again:\n%s", book.String())
	}
}

// TestOutageEndsAfterGivenUpCalls: calls whose time is over while the database is away
// are no outage any more when it is back, and one outage before that.
func TestOutageEndsAfterGivenUpCalls(t *testing.T) {
	t.Parallel()
	var book logBook
	r := authorConsumer(t, SQLite, Config{Logger: book.logger()}, logAuthor)
	apply := func(ctx context.Context, key int) error {
		_, err := r.Apply(ctx, authorEvent("SAVE", key, 1, "x"))
		return err
	}
	if err := apply(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	mustExec(t, r.db, "ALTER TABLE replica_inbox RENAME TO away")
	for range 2 {
		given, giveUp := context.WithCancel(t.Context())
		over := make(chan error, 1)
		go func() { over <- apply(given, 2) }()
		eventually(t, "the call waits for the database", func() bool { return !r.Stats().PausedSince.IsZero() })
		giveUp()
		if err := <-over; err == nil {
			t.Fatal("applied without a database")
		}
		r.wantOneOutage(t, "after a call", book.String())
	}
	mustExec(t, r.db, "ALTER TABLE away RENAME TO replica_inbox")
	if err := apply(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	r.wantOneOutage(t, "when the database is back", book.String())
	if !strings.Contains(book.String(), "works again") {
		t.Errorf("it does not say that the database works again:\n%s", book.String())
	}
}

// TestCallGivenUpDuringAnAttempt: its time is over while the database is asked.
func TestCallGivenUpDuringAnAttempt(t *testing.T) {
	t.Parallel()
	r := accountRig(t, SQLite)
	var book logBook
	ctx, cancel := context.WithCancel(t.Context())
	engine := &stubEngine{fail: func(_ context.Context, call int) error {
		if call == 3 {
			return nil
		}
		if call == 2 {
			cancel()
		}
		return sqlState("57P01")
	}}
	run := &runner{Consumer: r.Consumer, engine: engine, catalogue: r.catalogue(), log: book.logger(), work: t.Context()}
	one := part{messages: r.read(t, []*message.Message{save(1, 1, "x")})}
	if _, ok := run.apply(ctx, one); ok {
		t.Fatal("applied without a database")
	}
	r.wantOneOutage(t, "after the call", book.String())
	if _, ok := run.apply(t.Context(), one); !ok {
		t.Fatal("not applied")
	}
	r.wantOneOutage(t, "when the database is back", book.String())
}

// TestCopyGivenUpIsNotStuck: a message whose call is over is not held any more.
func TestCopyGivenUpIsNotStuck(t *testing.T) {
	t.Parallel()
	r := authorConsumer(t, SQLite, Config{}, logAuthor)
	broker := newTestBroker()
	r.broker = broker
	broker.setRefuse(func(string, *message.Message) error { return errBrokerAway })
	given, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	m := django("garbage")
	m.SetContext(given)
	over := make(chan error, 1)
	go func() { over <- r.HandleMessage(m) }()
	eventually(t, "the call waits for the broker", func() bool { return r.Stats().Stuck == 1 })
	giveUp()
	if err := <-over; err == nil {
		t.Fatal("settled without a broker")
	}
	s := r.Stats()
	if s.Stuck != 0 || !s.PausedSince.IsZero() || s.Pauses != 1 {
		t.Errorf("%d stuck, paused since %v, %d outages; want 0, never, 1", s.Stuck, s.PausedSince, s.Pauses)
	}
}

// sayingSlowly is a log's handler that does something before it says a thing.
type sayingSlowly struct {
	slog.Handler
	before func(message string)
}

func (h *sayingSlowly) Handle(ctx context.Context, record slog.Record) error {
	h.before(record.Message)
	return h.Handler.Handle(ctx, record)
}

func (h *sayingSlowly) WithAttrs([]slog.Attr) slog.Handler { return h }

// TestLastWordOnAnOutage: when one begins just as another is over, the log ends with the
// one that lasts.
func TestLastWordOnAnOutage(t *testing.T) {
	t.Parallel()
	var book logBook
	r := accountRig(t, SQLite)
	var second sync.WaitGroup
	var run *runner
	ctx, cancel := context.WithCancel(t.Context())
	run = &runner{Consumer: r.Consumer, log: slog.New(&sayingSlowly{book.logger().Handler(), func(message string) {
		if message != "the database works again" {
			return
		}
		begun := make(chan struct{})
		second.Go(func() {
			p := pause{runner: run, what: "database"}
			go func() {
				<-time.After(50 * time.Millisecond) // it would be said by then
				close(begun)
			}()
			p.wait(ctx, errBrokerAway)
		})
		<-begun
	}})}
	p := pause{runner: run, what: "database"}
	p.wait(t.Context(), errBrokerAway)
	p.over()
	eventually(t, "the second outage is said", func() bool { return strings.Count(book.String(), "waiting for the database") == 2 })
	lines := strings.Split(strings.TrimSpace(book.String()), "\n")
	if last := lines[len(lines)-1]; !strings.Contains(last, "waiting for the database") {
		t.Errorf("it ends with %q", last)
	}
	cancel()
	second.Wait()
}

// TestCallIsOverInTime: a call does not outlive its context behind another one that waits
// for the database to be there for the first time.
func TestCallIsOverInTime(t *testing.T) {
	t.Parallel()
	db, err := sql.Open("postgres", "postgres://nobody@127.0.0.1:1/none?sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	c, err := New(db, newTestBroker(), Config{Queue: "replica"})
	if err != nil {
		t.Fatal(err)
	}
	if err := Handle(c, "author", logAuthor); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := c.Apply(ctx, authorEvent("SAVE", 1, 1, "x"))
		first <- err
	}()
	eventually(t, "the first call waits", func() bool { return c.Stats().Pauses == 1 })
	short, done := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer done()
	second := make(chan error, 1)
	go func() {
		_, err := c.Apply(short, authorEvent("SAVE", 2, 1, "x"))
		second <- err
	}()
	select {
	case err := <-second:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the second call: %v, want its deadline", err)
		}
	case <-time.After(enough):
		t.Error("the second call goes on long after its deadline")
	}
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the first call: %v, want its end", err)
	}
}
