package consumer

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/event"
)

// TestHandlerIsCalledOnce: whatever is delivered, repeated or late, the handler
// sees each change once and in order, and knows what it is.
func TestHandlerIsCalledOnce(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		r, run := runAuthors(t, d, Config{}, logAuthor)
		messages := []*message.Message{
			authorEvent("SAVE", 1, 1, "one"), authorEvent("SAVE", 1, 1, "one"), // create, duplicate
			authorEvent("SAVE", 1, 4, "four"), authorEvent("SAVE", 1, 3, "three"), // gap, late
			authorEvent("SYNC", 1, 4, "sync"),                                                                      // repairs
			authorEvent("DELETE", 1, 5, ""), authorEvent("DELETE", 1, 5, ""), authorEvent("SAVE", 1, 4, "lazarus"), // deleted, again, late
			authorEvent("SAVE", 1, 6, "anew"),
			authorEvent("DELETE", 2, 3, ""), authorEvent("SAVE", 2, 1, "late"), // the delete came first
		}
		run.broker.deliver(messages...)
		run.awaitAcked(t, len(messages))
		want := []string{
			"kind=create id=1 name=anew revision=6", "kind=create id=1 name=one revision=1",
			"kind=delete id=1 name= revision=5", "kind=delete id=2 name= revision=3",
			"kind=update id=1 name=four revision=4", "kind=update id=1 name=sync revision=4",
		}
		if diff := cmp.Diff(want, r.authorLog(t)); diff != "" {
			t.Errorf("calls (-want +have):\n%s", diff)
		}
		s := r.Stats()
		if s.Applied != 6 || s.Duplicate != 2 || s.Stale != 3 || s.Gaps != 1 || s.Retried+s.Dead != 0 {
			t.Errorf("have %+v, want 6 applied, 2 duplicates, 3 stale, 1 gap", s)
		}
	})
}

// TestHandlerFollowsTheTable: random messages leave a handler's guard as they
// leave a table's rows and tombstones.
func TestHandlerFollowsTheTable(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(7, 8))
	r := authorConsumer(t, SQLite, Config{}, func(context.Context, Tx, Event[author]) error { return nil })
	replicas, faults, err := r.load(t.Context())
	if faults != nil || err != nil {
		t.Fatal(faults, err)
	}
	x := r.newInbox(r.cfg.Logger)
	defer func() { _ = x.close() }()
	have := map[int]state{}
	for range 600 {
		key, revision := random.IntN(4), random.IntN(5)
		signal := []string{"SAVE", "SYNC", "DELETE", "SAVE"}[random.IntN(4)]
		m := authorEvent(signal, key, revision, "x")
		if random.IntN(2) == 0 {
			delete(m.Metadata, event.HeaderEventID) // django-cqrs
		}
		if random.IntN(5) == 0 {
			m.Metadata.Set(event.HeaderForce, "1")
		}
		in, err := read(replicas, m, at(0))
		if err != nil {
			t.Fatal(err)
		}
		want, then := decide(have[key], in.change)
		v, err := x.apply(t.Context(), in)
		if err != nil || v != want {
			t.Fatalf("%s of revision %d on %+v: have %+v, %v, want %+v", signal, revision, have[key], v, err, want)
		}
		have[key] = then
	}
}

// TestHandlerAndGuardAreOne: what a failed handler wrote is gone, and the event
// is news again.
func TestHandlerAndGuardAreOne(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		fails := map[string]error{"error": errors.New("boom"), "panic": nil}
		for name, failure := range fails {
			r, run := runAuthors(t, d, Config{}, func(ctx context.Context, tx Tx, ev Event[author]) error {
				if err := logAuthor(ctx, tx, ev); err != nil {
					return err
				}
				switch {
				case ev.Attempt > 1:
					return nil
				case failure == nil:
					panic("boom")
				}
				return failure
			})
			run.broker.requeue = true
			run.broker.deliver(authorEvent("SAVE", 1, 1, "one"))
			eventually(t, name+": applied at the second attempt", func() bool { s := r.Stats(); return s.Applied == 1 && s.Retried > 0 })
			if diff := cmp.Diff([]string{"kind=create id=1 name=one revision=1"}, r.authorLog(t)); diff != "" {
				t.Errorf("%s: calls that stand (-want +have):\n%s", name, diff)
			}
			if s := r.Stats(); s.Retried != 1 || s.Dead != 0 || s.Pauses != 0 {
				t.Errorf("%s: have %+v, want 1 retried", name, s)
			}
		}
	})
}

// TestHandlersSideBySide: one event at a time and in order for each key, several
// keys at a time.
func TestHandlersSideBySide(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		dialect Dialect
		workers int
	}{{Postgres, 5}, {Postgres, 1}, {MySQL, 5}, {MySQL, 1}, {SQLite, 5}} {
		c := newCallLog()
		r, run := runAuthors(t, tc.dialect, Config{Workers: tc.workers}, func(ctx context.Context, tx Tx, ev Event[author]) error {
			defer c.enter(ev.Key, ev.Revision)()
			linger(ctx, time.Millisecond)
			return logAuthor(ctx, tx, ev)
		})
		var messages []*message.Message
		for key := range 10 {
			for revision := 1; revision <= 10; revision++ { // one behind the other
				messages = append(messages, authorEvent("SAVE", key, revision, "x"))
			}
		}
		run.broker.deliver(messages...)
		run.awaitAcked(t, len(messages))
		want := tc.workers
		if tc.dialect == SQLite {
			want = 1
		}
		// A busy machine may never bring all of them together.
		if c.overlaps > 0 || c.most > want || c.most < min(2, want) || len(r.authorLog(t)) != 100 {
			t.Errorf("%s: %d overlaps within a key, %d at a time, %d calls; want 0, up to %d, 100", tc.dialect, c.overlaps, c.most, len(r.authorLog(t)), want)
		}
		for key, order := range c.order {
			if !slices.IsSorted(order) {
				t.Errorf("%s: key %s came in the order %v", tc.dialect, key, order)
			}
		}
	}
}

// TestHandlersOfTwoProcesses: the guard holds between processes, too.
func TestHandlersOfTwoProcesses(t *testing.T) {
	t.Parallel()
	for _, d := range []Dialect{Postgres, MySQL} {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			handlersOfTwoProcesses(t, d)
		})
	}
}

func handlersOfTwoProcesses(t *testing.T, d Dialect) {
	db := openDB(t, d, authorLog)
	c := newCallLog()
	var messages []*message.Message
	for revision := 1; revision <= 20; revision++ {
		for key := range 3 {
			messages = append(messages, authorEvent("SAVE", key, revision, "x"))
		}
	}
	var runs []*rig
	for range 3 {
		consumer, err := New(db, newTestBroker(), Config{Queue: "replica"})
		if err != nil {
			t.Fatal(err)
		}
		err = Handle(consumer, "author", func(ctx context.Context, tx Tx, ev Event[author]) error {
			defer c.enter(ev.Key, ev.Revision)()
			linger(ctx, time.Millisecond)
			return logAuthor(ctx, tx, ev)
		})
		if err != nil {
			t.Fatal(err)
		}
		r, broker := &rig{Consumer: consumer}, newTestBroker()
		r.start(t, broker, broker)
		for _, m := range messages {
			broker.deliver(m.Copy())
		}
		runs = append(runs, r)
	}
	eventually(t, "all are settled", func() bool {
		n := int64(0)
		for _, r := range runs {
			s := r.Stats()
			n += s.Applied + s.Duplicate + s.Stale
		}
		return n == int64(3*len(messages))
	})
	for key, order := range c.order {
		if !slices.IsSorted(order) || len(slices.Compact(slices.Clone(order))) != len(order) || order[len(order)-1] != 20 {
			t.Errorf("key %s came in the order %v", key, order)
		}
	}
	if c.overlaps > 0 {
		t.Errorf("%d calls for one key at a time", c.overlaps)
	}
	if n := len(runs[0].authorLog(t)); int64(n) != runs[0].Stats().Applied+runs[1].Stats().Applied+runs[2].Stats().Applied {
		t.Errorf("%d calls stand, which is not what is counted", n)
	}
}

// TestEventOf: all that the message says reaches the handler.
func TestEventOf(t *testing.T) {
	t.Parallel()
	type book struct {
		ID      string     `json:"uuid"`
		Printed event.Time `json:"printed"`
		Price   json.Number
	}
	db := openDB(t, SQLite)
	c, err := New(db, newTestBroker(), Config{Queue: "replica"})
	if err != nil {
		t.Fatal(err)
	}
	have := make(chan Event[book], 3)
	err = Handle(c, "book", func(_ context.Context, _ Tx, ev Event[book]) error { have <- ev; return nil }, HandlerOptions{Key: "uuid"})
	if err != nil {
		t.Fatal(err)
	}
	const id = "0192f0c1-0000-7000-8000-00000000000a"
	updated := at(3).UTC().Truncate(time.Microsecond)
	body := fmt.Sprintf(`{"signal_type":"SYNC","cqrs_id":"book","instance_data":{"uuid":"0192F0C1000070008000-00000000000a","printed":"2026-01-02 03:04:05.5+00:00","Price":1.50,%s},`+
		`"previous_data":{"Price":2},"instance_pk":7,"correlation_id":"c-1","retries":2,"expires":null,"meta":{"by":"me"}}`, versionJSON(3, at(3)))
	m := lockstep(body)
	m.Metadata.Set(event.HeaderForce, "1")
	r := &rig{Consumer: c}
	broker := newTestBroker()
	r.start(t, broker, broker)
	broker.deliver(m, lockstep(envelope("DELETE", "book", `{"id":"`+id+`",`+versionJSON(4, at(4))+`}`)))
	ev := <-have
	data, _, _ := strings.Cut(body[strings.Index(body, `{"uuid"`):], `,"previous_data"`)
	want := Event[book]{
		Entity: "book", Key: id, Kind: Create,
		Data: book{"0192F0C1000070008000-00000000000a", event.Time{Time: time.Date(2026, 1, 2, 3, 4, 5, 5e8, time.UTC)}, "1.50"},
		Raw:  json.RawMessage(data), Previous: json.RawMessage(`{"Price":2}`), Meta: json.RawMessage(`{"by":"me"}`), CorrelationID: json.RawMessage(`"c-1"`),
		Revision: 3, Updated: updated, Sync: true, Forced: true, Attempt: 3,
	}
	if diff := cmp.Diff(want, ev); diff != "" {
		t.Errorf("the event (-want +have):\n%s", diff)
	}
	if gone := <-have; gone.Kind != Delete || gone.Key != id || gone.Revision != 4 {
		t.Errorf("the deletion is %+v", gone)
	}
}

// TestHandleFaults: what is wrong is said at once, and nothing can be registered later.
func TestHandleFaults(t *testing.T) {
	t.Parallel()
	db, _ := sql.Open("sqlite", "file::memory:")
	defer func() { _ = db.Close() }()
	c, err := New(db, newTestBroker(), Config{Queue: "replica"})
	if err != nil {
		t.Fatal(err)
	}
	err = Handle[author](c, "a*", nil, HandlerOptions{
		Timeout: -1, MaxRetries: -3, RetryDelay: -1,
		RetryIf: func(int, error) bool { return true }, RetryDelayFor: func(int, error) time.Duration { return 0 },
	})
	for _, want := range []string{"CQRS ID", "the function is nil", "Timeout is", "MaxRetries is", "RetryDelay is", "MaxRetries and RetryIf", "RetryDelay and RetryDelayFor"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("have %v, want %q in it", err, want)
		}
	}
	fn := func(context.Context, Event[author]) error { return nil }
	if err := HandleNoDB(c, "author", fn, HandlerOptions{}, HandlerOptions{}); err == nil || !strings.Contains(err.Error(), "one is enough") {
		t.Errorf("two options: %v", err)
	}
	if err := HandleNoDB(c, "author", fn); err != nil {
		t.Error(err)
	}
	if err := c.Table("author", Table{Name: "authors"}); err == nil || !strings.Contains(err.Error(), "registered already") {
		t.Errorf("a table for a handler's entity: %v", err)
	}
}

// What is kept by a handler can neither be compared nor loaded: the tools say so.
func TestHandlerHasNoTable(t *testing.T) {
	t.Parallel()
	r := authorConsumer(t, SQLite, Config{}, logAuthor)
	_, read := r.Reader(t.Context(), "author")
	_, load := r.Loader(t.Context(), "author", nil)
	for verb, err := range map[string]error{"compare": read, "load": load} {
		if want := "consumer: author has a handler and no table: there is nothing to " + verb; err == nil || err.Error() != want {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}
