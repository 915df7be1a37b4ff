package consumer

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// twoEntities runs a consumer with a table (account) and a handler (author).
func twoEntities(t *testing.T, d Dialect, cfg Config) (*rig, *running) {
	t.Helper()
	cfg.Queue = "replica"
	c, err := New(openDB(t, d, accountTable, authorLog), newTestBroker(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Table("account", Table{Name: "account_ref", Columns: accountColumns}); err != nil {
		t.Fatal(err)
	}
	if err := Handle(c, "author", logAuthor); err != nil {
		t.Fatal(err)
	}
	r := &rig{Consumer: c}
	broker := newTestBroker()
	return r, r.start(t, broker, broker)
}

// TestPauseAndResume: the messages of a paused entity wait in their order, those
// of the other go on; at the end of Run what waits goes back.
func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	eachDialect(t, pausesAndResumes)
	r, _ := twoEntities(t, SQLite, Config{})
	if err := r.Pause("stranger"); err == nil || !strings.Contains(err.Error(), "stranger") {
		t.Errorf("Pause of a stranger: %v", err)
	}
}

func pausesAndResumes(t *testing.T, d Dialect) {
	for _, paused := range []string{"account", "author"} {
		r, run := twoEntities(t, d, Config{})
		if err := r.Pause(paused); err != nil {
			t.Fatal(err)
		}
		for revision := 1; revision <= 3; revision++ {
			run.broker.deliver(save(1, revision, "x"), authorEvent("SAVE", 1, revision, "x"))
		}
		run.awaitAcked(t, 3)
		eventually(t, "all are taken", func() bool { return r.Stats().Received == 6 })
		if rows, calls := len(r.titles(t)), len(r.authorLog(t)); rows+calls != map[string]int{"account": 3, "author": 1}[paused] {
			t.Errorf("%s paused: %d rows and %d calls", paused, rows, calls)
		}
		if err := r.Resume(paused); err != nil {
			t.Fatal(err)
		}
		run.awaitAcked(t, 6)
		if s := r.Stats(); s.Stale != 0 || len(r.authorLog(t)) != 3 {
			t.Errorf("%s paused: have %+v and %d calls: the order was lost", paused, s, len(r.authorLog(t)))
		}
		if err := r.Pause(paused); err != nil {
			t.Fatal(err)
		}
		run.broker.deliver(save(1, 4, "x"), authorEvent("SAVE", 1, 4, "x"))
		run.awaitAcked(t, 7)
		eventually(t, "all are taken", func() bool { return r.Stats().Received == 8 })
		if err := run.stop(t); err != nil {
			t.Errorf("Run: %v", err)
		}
		run.broker.watchers.Wait()
		if acked, nacked := run.broker.counts(); acked != 7 || nacked != 1 {
			t.Errorf("%s paused: %d acknowledged, %d given back, want 7 and 1", paused, acked, nacked)
		}
	}
}

// TestEntitiesAndIgnoreLimitWhatIsConsumed: Entities limits what is bound and applied, Ignore says what is
// needless, and all else is a dead letter.
func TestEntitiesAndIgnoreLimitWhatIsConsumed(t *testing.T) {
	t.Parallel()
	r, run := twoEntities(t, SQLite, Config{Entities: []string{"author"}, Ignore: []string{"old"}})
	run.broker.deliver(authorEvent("SAVE", 1, 1, "x"), save(1, 1, "x"), lockstep(envelope("SAVE", "old", "{}")))
	run.awaitAcked(t, 3)
	if diff := cmp.Diff([]string{"author", "cqrs.replica.author"}, run.broker.bound["replica"]); diff != "" {
		t.Errorf("bindings (-want +have):\n%s", diff)
	}
	if s := r.Stats(); s.Applied != 1 || s.Ignored != 1 || s.Dead != 1 || len(r.titles(t)) != 0 {
		t.Errorf("have %+v, want 1 applied, 1 ignored, 1 dead", s)
	}
	r.cfg.Entities = []string{"author", "misspelt"}
	if err := r.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "misspelt") {
		t.Errorf("Check: %v, want misspelt in it", err)
	}
}

// TestLogSaysAFailureOnce: what is consumed is said at the start, a failing message once, not
// all of many, and nothing about a database that was not asked for any more.
func TestLogSaysAFailureOnce(t *testing.T) {
	t.Parallel()
	var book logBook
	r, run := twoEntities(t, SQLite, Config{Logger: book.logger()})
	for key := range 20 {
		run.broker.deliver(lockstep(envelope("SAVE", "account", fmt.Sprintf(`{"id":%d,"name":null,%s}`, key, versionJSON(1, at(1))))))
	}
	run.awaitAcked(t, 20)
	if err := run.stop(t); err != nil {
		t.Fatal(err)
	}
	text := book.String()
	for _, want := range []string{`msg=consuming queue=replica entities="[account author]" dialect=sqlite`, "msg=\"a message failed and is tried again\" queue=replica entity=account/0"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in the log:\n%s", want, text)
		}
	}
	if n := strings.Count(text, "level=WARN"); n != 1 {
		t.Errorf("%d warnings, want 1:\n%s", n, text)
	}
	var th throttle
	now := at(0)
	var shown []int
	for i := range 300 {
		if show, hidden := th.allow("x", now.Add(time.Duration(i)*100*time.Millisecond)); show {
			shown = append(shown, hidden)
		}
	}
	if !slices.Equal(shown, []int{0, 99, 99}) {
		t.Errorf("of 300 lines in 30 s, shown with hidden ones %v, want 0, 99, 99", shown)
	}

	var quiet logBook
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r.cfg.Logger = quiet.logger()
	if err := r.Run(ctx); err != nil || strings.Contains(quiet.String(), "WARN") {
		t.Errorf("a Run that was stopped before it began: %v, log:\n%s", err, quiet.String())
	}
}
