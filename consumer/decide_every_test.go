package consumer

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
)

// encounter is a message that meets what is stored for its key.
type encounter struct {
	have state
	in   change
}

// encounters returns all there are of a few revisions and times, the key's place
// in it being the key.
func encounters() (all []encounter) {
	const revisions, seconds = 3, 3
	for _, w := range worldsOf(revisions, seconds) {
		for _, in := range messagesOf(revisions, seconds) {
			if in.absent == "" {
				all = append(all, encounter{w.state, in.change})
			}
		}
	}
	return all
}

// seedAll stores what the encounters start from, for tables and handlers.
func (r *rig) seedAll(t *testing.T, all []encounter) {
	t.Helper()
	var rows, tombstones, notes []string
	for key, e := range all {
		updated, deleted := "'"+timeText(r.dialect, e.have.Updated)+"'", "NULL"
		switch e.have.presence {
		case nothing:
			continue
		case row:
			rows = append(rows, fmt.Sprintf("(%d, 'old', %d, %s)", key, e.have.Revision, updated))
		case tombstone:
			deleted = updated
			tombstones = append(tombstones, fmt.Sprintf("('account_ref', '%d', %d, %s)", key, e.have.Revision, updated))
		}
		notes = append(notes, fmt.Sprintf("('replica', 'author', '%d', %d, %s, %s)", key, e.have.Revision, updated, deleted))
	}
	mustExec(t, r.db, "INSERT INTO account_ref (id, title, cqrs_revision, cqrs_updated) VALUES "+strings.Join(rows, ", "))
	mustExec(t, r.db, `INSERT INTO replica_tombstones (replica, "key", revision, updated) VALUES `+strings.Join(tombstones, ", "))
	mustExec(t, r.db, `INSERT INTO replica_inbox (queue, entity, "key", revision, updated, deleted_at) VALUES `+strings.Join(notes, ", "))
}

// everything returns what is stored: by table, and as handlers have seen it.
func (r *rig) everything(t *testing.T) (rows, notes []string) {
	t.Helper()
	rows = append(dump(t, r.db, "SELECT id AS k, 'row' AS has, cqrs_revision AS r, cqrs_updated AS u FROM account_ref"),
		dump(t, r.db, `SELECT "key" AS k, 'tombstone' AS has, revision AS r, updated AS u FROM replica_tombstones`)...)
	return rows, dump(t, r.db, `SELECT "key" AS k, CASE WHEN deleted_at IS NULL THEN 'row' ELSE 'tombstone' END AS has, revision AS r, updated AS u FROM replica_inbox`)
}

// TestEveryDecision: whatever message meets whatever is stored, tables and handlers
// of each database do what the decision function says, and count it so.
func TestEveryDecision(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		r := accountRig(t, d)
		if err := Handle(r.Consumer, "author", func(context.Context, Tx, Event[author]) error { return nil }); err != nil {
			t.Fatal(err)
		}
		all := encounters()
		r.seedAll(t, all)
		var messages []*message.Message
		var want tally
		line := map[presence]string{row: "k=%d has=row r=%d u=%s", tombstone: "k=%d has=tombstone r=%d u=%s"}
		stored := make(map[string]string) // the line after an encounter, by what it was
		for key, e := range all {
			messages = append(messages, decisionMessage(key, e.in), handled(decisionMessage(key, e.in), key))
			v, then := decide(e.have, e.in)
			want.count(v)
			want.count(v)
			if then.presence != nothing {
				stored[fmt.Sprintf(line[then.presence], key, then.Revision, shown(then.Updated))] = fmt.Sprintf("%+v met %+v", e.in, e.have)
			}
		}
		broker := newTestBroker()
		run := r.start(t, broker, broker)
		broker.deliver(messages...)
		run.awaitAcked(t, len(messages))
		if err := run.stop(t); err != nil {
			t.Error(err)
		}
		s := r.Stats()
		have := tally{applied: int(s.Applied), duplicate: int(s.Duplicate), stale: int(s.Stale), gaps: int(s.Gaps), downgraded: int(s.Downgraded)}
		if diff := cmp.Diff(want, have, cmp.AllowUnexported(tally{})); diff != "" {
			t.Errorf("counters (-want +have):\n%s", diff)
		}
		rows, notes := r.everything(t)
		for what, lines := range map[string][]string{"table": rows, "handlers": notes} {
			found := make(map[string]bool, len(lines))
			for _, l := range lines {
				if found[l] = true; stored[l] == "" {
					t.Errorf("%s: not by the table: %s", what, l)
				}
			}
			for l, how := range stored {
				if !found[l] {
					t.Errorf("%s: %s: there is no %s", what, how, l)
				}
			}
		}
	})
}
