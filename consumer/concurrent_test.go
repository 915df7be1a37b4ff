package consumer

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/testdb"
)

// TestDeleteWaitsForSaves: on PostgreSQL a DELETE does not start while a SAVE of
// the same table is in a transaction, which may hold the row that it would miss.
func TestDeleteWaitsForSaves(t *testing.T) {
	t.Parallel()
	_, dsn := testdb.Postgres(t)
	db := reopen(t, dsn, "default_transaction_isolation", "repeatable read") // which must not matter
	migrate(t, db, Postgres)
	mustExec(t, db, strings.ReplaceAll(accountTable, "%s", "timestamptz"))
	r := rigOn(t, db, map[string]Table{"account": {Name: "account_ref", Columns: accountColumns}})
	tx, err := r.db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.ExecContext(t.Context(), beginning(r.read(t, []*message.Message{save(1, 1, "one")}))); err != nil {
		t.Fatal(err)
	}
	r.batch(t, save(2, 1, "two")) // SAVEs do not wait for each other
	done := r.background(t, remove(1, 2))
	requireWaiting(t, done)
	if _, err := tx.ExecContext(t.Context(), "INSERT INTO account_ref (id, title, cqrs_revision, cqrs_updated) VALUES (1, 'one', 1, now())"); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if have, _ := r.world(t, 1); have.presence != tombstone {
		t.Errorf("have %+v, want a tombstone", have)
	}
}

// TestSaveMeetsNewerUncommittedRow: a SAVE that had to wait for another
// transaction's row, new or changed, compares with what was committed.
func TestSaveMeetsNewerUncommittedRow(t *testing.T) {
	t.Parallel()
	for name, stored := range map[string]bool{"a new row": false, "a changed row": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := accountRig(t, Postgres)
			if stored {
				r.batch(t, save(1, 1, "one"))
			}
			tx, err := r.db.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tx.ExecContext(t.Context(), fmt.Sprintf(`INSERT INTO account_ref (id, title, cqrs_revision, cqrs_updated) VALUES (1, 'five', 5, '%s')
				ON CONFLICT (id) DO UPDATE SET title = 'five', cqrs_revision = 5`, event.FormatTime(at(5)))); err != nil {
				t.Fatal(err)
			}
			done := r.background(t, save(1, 2, "two"), save(7, 1, "beside"))
			requireWaiting(t, done)
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if have, title := r.world(t, 1); have.Revision != 5 || title != "five" {
				t.Errorf("have revision %d, %q, want 5, five", have.Revision, title)
			}
			if _, title := r.world(t, 7); title != "beside" {
				t.Errorf("the row beside is %q", title)
			}
		})
	}
}

// background applies a batch in another goroutine.
func (r *rig) background(t *testing.T, messages ...*message.Message) <-chan error {
	t.Helper()
	batch := r.read(t, messages)
	done := make(chan error, 1)
	go func() {
		_, err := r.engine.apply(t.Context(), batch, nil)
		done <- err
	}()
	return done
}

func requireWaiting(t *testing.T, done <-chan error) {
	t.Helper()
	select {
	case err := <-done:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
}

// TestFoldedOverTombstone: a message may clear the way over a tombstone for the
// next one of its key in the same batch, as it would alone.
func TestFoldedOverTombstone(t *testing.T) {
	t.Parallel()
	stored := state{tombstone, version(5, 50)}
	forced := change{signal: event.Sync, Version: version(3, 61), force: true}
	restarted := change{signal: event.Save, Version: version(0, 60), restarts: true}
	second := change{signal: event.Save, Version: version(1, 61), restarts: true}
	tests := []struct {
		name  string
		batch []change
		want  state
	}{
		{"a SAVE for a forced SYNC", []change{{signal: event.Save, Version: version(6, 60)}, forced}, state{row, version(3, 61)}},
		{"a stale SAVE for a forced SYNC", []change{{signal: event.Save, Version: version(4, 40)}, forced}, stored},
		{"a first revision for the second", []change{restarted, second}, state{row, version(1, 61)}},
		{"the second before the first", []change{second, restarted}, state{row, version(0, 60)}},
		{"a DELETE, then a new row", []change{{signal: event.Delete, Version: version(7, 70)}, {signal: event.Save, Version: version(8, 80)}}, state{row, version(8, 80)}},
	}
	eachDialect(t, func(t *testing.T, d Dialect) {
		r := accountRig(t, d)
		for key, tc := range tests {
			r.seed(t, key, stored)
			var messages []*message.Message
			for _, c := range tc.batch {
				messages = append(messages, decisionMessage(key, c))
			}
			r.batch(t, messages...)
			if have, _ := r.world(t, key); have != tc.want {
				t.Errorf("%s: have %+v, want %+v", tc.name, have, tc.want)
			}
		}
	})
}
