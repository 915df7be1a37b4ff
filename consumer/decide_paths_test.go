package consumer

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
)

// seedSeen notes what a line of the decision table starts from as seen by handlers.
func (r *rig) seedSeen(t *testing.T, key int, have state) {
	t.Helper()
	if have.presence == nothing {
		return
	}
	updated, deleted := "'"+timeText(r.dialect, have.Updated)+"'", "NULL"
	if have.presence == tombstone {
		deleted = updated
	}
	mustExec(t, r.db, fmt.Sprintf(`INSERT INTO replica_inbox (queue, entity, "key", revision, updated, deleted_at) VALUES ('replica', 'author', '%d', %d, %s, %s)`,
		key, have.Revision, updated, deleted))
}

// deciding is a consumer of accounts (a table) and authors (a handler) on a
// database that holds what the lines of the decision table start from, for both.
type deciding struct {
	*rig
	messages []*message.Message
	calls    chan string // of the handler, with the kind of the event
}

func newDeciding(t *testing.T, d Dialect) *deciding {
	t.Helper()
	lines := decisions()
	r := &deciding{rig: accountRig(t, d), calls: make(chan string, len(lines))}
	err := Handle(r.Consumer, "author", func(_ context.Context, _ Tx, ev Event[author]) error {
		r.calls <- fmt.Sprint(ev.Key, " ", ev.Kind)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for key, line := range lines {
		r.seed(t, key, line.have)
		r.seedSeen(t, key, line.have)
		r.messages = append(r.messages, decisionMessage(key, line.in), handled(decisionMessage(key, line.in), key))
	}
	return r
}

// requireDecided fails unless tables, handlers and counters are as the decision
// table says.
func (r *deciding) requireDecided(t *testing.T) {
	t.Helper()
	var want tally
	var wantCalls, calls []string
	for key, line := range decisions() {
		want.count(line.want)
		want.count(line.want)
		if line.want.outcome == applied {
			wantCalls = append(wantCalls, fmt.Sprint(key, " ", kindOf(&incoming{change: line.in}, line.have)))
		}
		if then, _ := r.world(t, key); then != line.then {
			t.Errorf("%s: the table has %+v, want %+v", line.name, then, line.then)
		}
		if then := seen(t, r.rig, key); then != line.then {
			t.Errorf("%s: the handlers have seen %+v, want %+v", line.name, then, line.then)
		}
	}
	s := r.Stats()
	have := tally{applied: int(s.Applied), duplicate: int(s.Duplicate), stale: int(s.Stale), gaps: int(s.Gaps), downgraded: int(s.Downgraded)}
	if diff := cmp.Diff(want, have, cmp.AllowUnexported(tally{})); diff != "" {
		t.Errorf("counters (-want +have):\n%s", diff)
	}
	close(r.calls)
	for call := range r.calls {
		calls = append(calls, call)
	}
	slices.Sort(wantCalls)
	slices.Sort(calls)
	if diff := cmp.Diff(wantCalls, calls); diff != "" {
		t.Errorf("calls of the handler (-want +have):\n%s", diff)
	}
}

// TestDecisionTableOnEveryPath: a running consumer, a mounted one, and one that is
// asked message by message hold to the decision table, for tables and handlers.
func TestDecisionTableOnEveryPath(t *testing.T) {
	t.Parallel()
	paths := map[string]func(t *testing.T, r *deciding){
		"Run": func(t *testing.T, r *deciding) {
			t.Helper()
			broker := newTestBroker()
			run := r.start(t, broker, broker)
			broker.deliver(r.messages...)
			run.awaitAcked(t, len(r.messages))
			if err := run.stop(t); err != nil {
				t.Error(err)
			}
		},
		"HandleMessage": func(t *testing.T, r *deciding) {
			t.Helper()
			for _, m := range r.messages {
				if err := r.HandleMessage(m); err != nil {
					t.Errorf("%s: %v", m.Payload, err)
				}
			}
		},
		"Apply": func(t *testing.T, r *deciding) {
			t.Helper()
			for i, m := range r.messages {
				want := outcomeOf(decisions()[i/2].want)
				if o, err := r.Apply(t.Context(), m); err != nil || o != want {
					t.Errorf("%s: %+v, %v, want %+v", m.Payload, o, err, want)
				}
			}
		},
	}
	for name, path := range paths {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachDialect(t, func(t *testing.T, d Dialect) {
				r := newDeciding(t, d)
				t.Cleanup(func() { _ = r.Close() })
				path(t, r)
				r.requireDecided(t)
			})
		})
	}
}
