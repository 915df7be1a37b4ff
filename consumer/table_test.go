package consumer

import (
	"database/sql"
	"errors"
	"fmt"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/event"
)

// decisionMessage makes the message of a line of the decision table.
func decisionMessage(key int, in change) *message.Message {
	data := fmt.Sprintf(`{"id":%d,"name":"new","note":"new",%s}`, key, versionJSON(in.Revision, in.Updated))
	body := envelope(string(in.signal), "account", data)
	m := lockstep(body)
	if in.restarts {
		m = django(body)
	}
	if in.force {
		m.Metadata.Set(event.HeaderForce, "1")
	}
	return m
}

// seed stores what a line of the decision table starts from.
func (r *rig) seed(t *testing.T, key int, have state) {
	t.Helper()
	switch have.presence {
	case row:
		mustExec(t, r.db, fmt.Sprintf(`INSERT INTO account_ref (id, title, note, cqrs_revision, cqrs_updated) VALUES (%d, 'old', 'old', %d, '%s')`,
			key, have.Revision, timeText(r.dialect, have.Updated)))
	case tombstone:
		mustExec(t, r.db, fmt.Sprintf(`INSERT INTO replica_tombstones (replica, "key", revision, updated) VALUES ('account_ref', '%d', %d, '%s')`,
			key, have.Revision, timeText(r.dialect, have.Updated)))
	case nothing:
	}
}

// read returns what is stored for a key, and whether its row is the new one.
func (r *rig) world(t *testing.T, key int) (have state, title string) {
	t.Helper()
	find := func(query string) bool {
		var updated any
		err := r.db.QueryRowContext(t.Context(), fmt.Sprintf(query, key)).Scan(&have.Revision, &updated, &title)
		if errors.Is(err, sql.ErrNoRows) {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		parsed, _, err := event.ParseTime(shown(updated))
		if err != nil {
			t.Fatal(err)
		}
		have.Updated = parsed.UTC()
		return true
	}
	isRow := find(`SELECT cqrs_revision, cqrs_updated, title FROM account_ref WHERE id = %d`)
	if isRow {
		have.presence = row
	}
	saved := have
	if find(`SELECT revision, updated, '' FROM replica_tombstones WHERE replica = 'account_ref' AND "key" = '%d'`) {
		if isRow {
			t.Errorf("key %d has both a row %+v and a tombstone %+v", key, saved, have)
		}
		have.presence = tombstone
	}
	return have, title
}

// oneBad applies messages of which one fails.
func (r *rig) oneBad(t *testing.T, messages []*message.Message) tally {
	t.Helper()
	res := r.batch(t, messages...)
	if len(res.failures) != 1 || !res.isolated {
		t.Fatalf("have %d failures, isolated %t, want the bad message alone", len(res.failures), res.isolated)
	}
	return res.tally
}

// TestDecisionTableOnDatabases holds every path to the decision table: all lines
// in one batch, each line alone, and all lines in a batch that has to be taken
// apart because of one bad message.
func TestDecisionTableOnDatabases(t *testing.T) {
	t.Parallel()
	paths := map[string]func(t *testing.T, r *rig, messages []*message.Message) tally{
		"batch": func(t *testing.T, r *rig, messages []*message.Message) tally {
			t.Helper()
			return r.batch(t, messages...).tally
		},
		"one by one": func(t *testing.T, r *rig, messages []*message.Message) (total tally) {
			t.Helper()
			for _, m := range messages {
				total.add(r.batch(t, m).tally)
			}
			return total
		},
		"taken apart": func(t *testing.T, r *rig, messages []*message.Message) tally {
			t.Helper()
			bad := lockstep(envelope("SAVE", "account", `{"id":9999,"name":["x"],"note":null,`+versionJSON(1, at(1))+`}`))
			if r.dialect == MySQL {
				mustExec(t, r.db, `ALTER TABLE account_ref ADD CONSTRAINT bad CHECK (title <> '["x"]')`)
				return r.oneBad(t, append(messages[:len(messages):len(messages)], bad))
			}
			mustExec(t, r.db, `CREATE UNIQUE INDEX bad ON account_ref (title) WHERE title <> 'old' AND title <> 'new'`)
			mustExec(t, r.db, `INSERT INTO account_ref (id, title, cqrs_revision, cqrs_updated) VALUES (9998, '["x"]', 1, '2026-01-01')`)
			return r.oneBad(t, append(messages[:len(messages):len(messages)], bad))
		},
	}
	for name, path := range paths {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachDialect(t, func(t *testing.T, d Dialect) {
				r := accountRig(t, d)
				var messages []*message.Message
				var want tally
				for key, line := range decisions() {
					r.seed(t, key, line.have)
					messages = append(messages, decisionMessage(key, line.in))
					want.count(line.want)
				}
				have := path(t, r, messages)
				if diff := cmp.Diff(want, have, cmp.AllowUnexported(tally{})); diff != "" {
					t.Errorf("counters (-want +have):\n%s", diff)
				}
				for key, line := range decisions() {
					then, title := r.world(t, key)
					if then != line.then {
						t.Errorf("%s: have %+v, want %+v", line.name, then, line.then)
					}
					wantTitle := map[bool]string{true: "new", false: "old"}[line.want.outcome == applied]
					if then.presence == row && title != wantTitle {
						t.Errorf("%s: the row is the %s one, want the %s one", line.name, title, wantTitle)
					}
				}
			})
		})
	}
}
