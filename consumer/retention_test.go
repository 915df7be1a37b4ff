package consumer

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// buried leaves tombstones, and notes of handlers, that are some days old.
func (r *rig) buried(t *testing.T, replica, key string, days int) {
	t.Helper()
	old := timeText(r.dialect, time.Now().Add(-time.Duration(days)*24*time.Hour))
	mustExec(t, r.db, fmt.Sprintf(`INSERT INTO replica_tombstones (replica, "key", revision, updated, deleted_at) VALUES ('%s', '%s', 7, '%s', '%s')`,
		replica, key, old, old))
}

func (r *rig) seen(t *testing.T, queue, key string, days int, deleted bool) {
	t.Helper()
	old := timeText(r.dialect, time.Now().Add(-time.Duration(days)*24*time.Hour))
	deletedAt := "NULL"
	if deleted {
		deletedAt = "'" + old + "'"
	}
	mustExec(t, r.db, fmt.Sprintf(`INSERT INTO replica_inbox (queue, entity, "key", revision, updated, deleted_at) VALUES ('%s', 'author', '%s', 7, '%s', %s)`,
		queue, key, old, deletedAt))
}

func (r *rig) remembered(t *testing.T) []string {
	t.Helper()
	return append(dump(t, r.db, `SELECT replica, "key" FROM replica_tombstones`), dump(t, r.db, `SELECT queue, "key" FROM replica_inbox`)...)
}

// TestOldTombstonesGo: a consumer that runs forgets what was deleted longer ago
// than the retention, whatever there is of it, and nothing else: not younger
// tombstones, not what handlers know of keys that live, not what is others'.
func TestOldTombstonesGo(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		r := authorConsumer(t, d, Config{}, logAuthor)
		mustExec(t, r.db, typesOf(d, strings.ReplaceAll(accountTable, "%s", map[Dialect]string{Postgres: "timestamptz", SQLite: "text", MySQL: "datetime(6)"}[d])))
		if err := r.Table("account", Table{Name: "account_ref", Columns: accountColumns}); err != nil {
			t.Fatal(err)
		}
		const many = purgeBatch + 20 // more than one statement takes
		for i := range many {
			r.buried(t, "account_ref", fmt.Sprint("old", i), 31)
		}
		r.buried(t, "account_ref", "young", 29)
		r.buried(t, "others", "old", 31)
		r.seen(t, "replica", "old", 31, true)
		r.seen(t, "replica", "young", 29, true)
		r.seen(t, "replica", "alive", 400, false)
		r.seen(t, "others", "old", 31, true)

		broker := newTestBroker()
		run := r.start(t, broker, broker)
		eventually(t, "old tombstones removed", func() bool { return r.Stats().Purged == many+1 })
		if err := run.stop(t); err != nil {
			t.Error(err)
		}
		want := []string{"replica=account_ref key=young", "replica=others key=old", "queue=others key=old", "queue=replica key=alive", "queue=replica key=young"}
		if diff := cmp.Diff(want, r.remembered(t)); diff != "" {
			t.Errorf("remembered (-want +have):\n%s", diff)
		}
	})
}

// TestPurgeBesideLife: a key that comes to life while its tombstone is being
// removed keeps its guard.
func TestPurgeBesideLife(t *testing.T) {
	t.Parallel()
	for _, d := range []Dialect{Postgres, MySQL} {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			r := authorConsumer(t, d, Config{}, logAuthor)
			r.seen(t, "replica", "1", 31, true)
			tx, err := r.db.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tx.Rollback() }()
			if _, err := tx.ExecContext(t.Context(), `UPDATE replica_inbox SET revision = 8, deleted_at = NULL`); err != nil {
				t.Fatal(err)
			}
			purged := make(chan error, 1)
			go func() {
				_, err := r.Purge(t.Context())
				purged <- err
			}()
			if d == Postgres { // it does not wait
				if err := <-purged; err != nil {
					t.Error(err)
				}
				purged <- nil
			}
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
			if err := <-purged; err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff([]string{"queue=replica key=1"}, r.remembered(t)); diff != "" {
				t.Errorf("remembered (-want +have):\n%s", diff)
			}
		})
	}
}

// TestRetentionOutlivesMessages: a retention that some message may outlive is
// refused, for tables and handlers.
func TestRetentionOutlivesMessages(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name      string
		retention time.Duration
		letters   time.Duration
		table     Table
		fits      bool
	}{
		{"defaults", 0, 0, Table{}, true},
		{"shorter than dead letters", 5 * 24 * time.Hour, 0, Table{}, false},
		{"as long as dead letters", 10 * 24 * time.Hour, 0, Table{MaxRetries: NoRetries}, false},
		{"dead letters without retries", 10*24*time.Hour + 1, 0, Table{MaxRetries: NoRetries}, true},
		{"dead letters and retries together", 10*24*time.Hour + time.Minute, 0, Table{}, false},
		{"long dead letters", 0, 40 * 24 * time.Hour, Table{}, false},
		{"many slow retries", 0, time.Hour, Table{MaxRetries: 1000, RetryDelay: time.Hour}, false},
		{"more than a duration holds", 0, time.Hour, Table{MaxRetries: 1 << 40, RetryDelay: 1000 * time.Hour}, false},
		{"for ever: nobody knows", 0, time.Hour, Table{MaxRetries: RetryForever}, true},
	}
	db := openDB(t, SQLite, accountTable)
	for _, test := range tests {
		c, err := New(db, newTestBroker(), Config{Queue: "replica", TombstoneRetention: test.retention, DeadLetterTTL: test.letters})
		if err != nil {
			t.Fatal(err)
		}
		test.table.Name, test.table.Columns = "account_ref", accountColumns
		table := c.Table("account", test.table)
		handler := Handle(c, "author", logAuthor, HandlerOptions{MaxRetries: test.table.MaxRetries, RetryDelay: test.table.RetryDelay})
		for what, err := range map[string]error{`Table "account"`: table, `Handle "author"`: handler} {
			if fits := err == nil; fits != test.fits {
				t.Errorf("%s, %s: have %v, want fits %t", test.name, what, err, test.fits)
			}
			if err != nil && !strings.Contains(err.Error(), what+": Config.TombstoneRetention is") {
				t.Errorf("%s: have %v, want %s named", test.name, err, what)
			}
		}
	}
}
