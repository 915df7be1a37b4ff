package consumer

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/internal/testdb"
)

// TestParkedForOddParents: the database is asked rightly about whatever a foreign key
// can refer to: tables of odd names and schemas, partitions, keys of any type.
func TestParkedForOddParents(t *testing.T) {
	t.Parallel()
	schema := `"odd.` + strings.ToLower(rand.Text()) + `"` // it is the whole database's
	db, _ := testdb.Postgres(t)
	t.Cleanup(func() {
		_, _ = db.ExecContext(context.Background(), "DROP SCHEMA IF EXISTS "+schema+" CASCADE")
	})
	for name, tc := range map[string]struct {
		dialect       Dialect
		parent        []string
		reference     string // the child's column ref
		value         string // in the message
		another, same string // values of parents, as SQL
		table         string // of the parents
	}{
		"PostgreSQL, partitions": {
			Postgres, []string{
				`CREATE TABLE parent (id bigint PRIMARY KEY) PARTITION BY RANGE (id)`,
				`CREATE TABLE low PARTITION OF parent FOR VALUES FROM (0) TO (10)`, `CREATE TABLE high PARTITION OF parent FOR VALUES FROM (10) TO (99)`,
			}, `bigint REFERENCES parent`, `50`, `5`, `50`, `parent`,
		},
		"PostgreSQL, schema": {
			Postgres,
			[]string{"CREATE SCHEMA " + schema, "CREATE TABLE " + schema + `."par""ent" ("I d" uuid PRIMARY KEY)`},
			"uuid REFERENCES " + schema + `."par""ent"`, `"1234567812341234123412345678ABCD"`, `'00000000-0000-0000-0000-000000000000'`,
			`'12345678-1234-1234-1234-12345678abcd'`, schema + `."par""ent"`,
		},
		"PostgreSQL, other types": {
			Postgres,
			[]string{`CREATE TABLE parent (id numeric(10,2) PRIMARY KEY)`},
			`integer REFERENCES parent`, `7`, `7.50`, `7`, `parent`,
		},
		"PostgreSQL, times": {
			Postgres,
			[]string{`CREATE TABLE parent (id timestamptz PRIMARY KEY)`},
			`timestamptz REFERENCES parent`, `"2026-01-02 03:04:05+03:00"`, `'2026-01-02 03:04:05Z'`, `'2026-01-02 00:04:05Z'`, `parent`,
		},
		"PostgreSQL, bytes: left to the delay": {
			Postgres, []string{`CREATE TABLE parent (id bytea PRIMARY KEY)`}, `bytea REFERENCES parent`, `"aGVsbG8="`, `'hell'`, `'hello'`, `parent`,
		},
		"MySQL, name": {
			MySQL,
			[]string{"CREATE TABLE `par.``ent` (`I d` varchar(20) COLLATE utf8mb4_general_ci PRIMARY KEY)"},
			"varchar(20) COLLATE utf8mb4_general_ci, FOREIGN KEY (ref) REFERENCES `par.``ent` (`I d`)", `"Ada"`, `'Adam'`, `'ADA'`, "`par.``ent`",
		},
		"MySQL, times": {
			MySQL,
			[]string{"CREATE TABLE parent (id datetime(6) PRIMARY KEY)"},
			"datetime(6), FOREIGN KEY (ref) REFERENCES parent (id)", `"2026-01-02 03:04:05+03:00"`, `'2026-01-02 03:04:05'`, `'2026-01-02 00:04:05'`, "parent",
		},
		"SQLite, no columns named": {
			SQLite,
			[]string{`CREATE TABLE "Par""ent" ("I d" TEXT COLLATE NOCASE PRIMARY KEY) WITHOUT ROWID`},
			`TEXT COLLATE NOCASE REFERENCES "par""ENT"`, `"Ada"`, `'Adam'`, `'ADA'`, `"Par""ent"`,
		},
		"SQLite, numbers": {
			SQLite, []string{`CREATE TABLE parent (id INTEGER PRIMARY KEY)`}, `REFERENCES parent`, `"7"`, `8`, `7`, `parent`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			delay, asks := time.Minute, name != "PostgreSQL, bytes: left to the delay"
			if !asks {
				delay = 3 * askEvery
			}
			r := newRig(t, tc.dialect, map[string]Table{"child": {Name: "child_ref", RetryDelay: delay}}, append(tc.parent,
				`CREATE TABLE child_ref (id bigint PRIMARY KEY, cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL, ref `+tc.reference+`)`)...)
			r.cfg.Now = time.Now
			broker := newTestBroker()
			broker.requeue = true
			r.start(t, broker, broker)
			broker.deliver(lockstep(envelope("SAVE", "child", fmt.Sprintf(`{"id":1,"ref":%s,%s}`, tc.value, versionJSON(1, at(1))))))
			eventually(t, "it is parked", func() bool { return r.Stats().Parked == 1 })
			mustExec(t, r.db, "INSERT INTO "+tc.table+" VALUES ("+tc.another+")")
			linger(t.Context(), askEvery+askEvery/2)
			if r.Stats().Applied > 0 {
				t.Error("it was applied after another row")
			}
			mustExec(t, r.db, "INSERT INTO "+tc.table+" VALUES ("+tc.same+")")
			eventually(t, "it is applied", func() bool { return r.Stats().Applied == 1 })
			if s := r.Stats(); s.Retried > 0 && asks {
				t.Errorf("have %+v: the row came while the message waited", s)
			}
		})
	}
}
