package consumer

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/internal/testdb"
)

// requireLines compares an error's text with wanted fragments, each of which must be in a
// line of its own fault.
func requireFaults(t *testing.T, err error, want ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("have no error, want %d faults", len(want))
	}
	text := err.Error()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("the error does not say %q:\n%s", w, text)
		}
	}
	if n := strings.Count(text, "consumer: "); n != len(want) {
		t.Errorf("have %d faults, want %d:\n%s", n, len(want), text)
	}
}

func TestConfigFaults(t *testing.T) {
	t.Parallel()
	_, err := New(nil, nil, Config{Dialect: "oracle", BatchSize: -1, DeadLetterTTL: time.Microsecond, DrainTimeout: -1, TransactionTimeout: -time.Hour})
	requireFaults(t, err, "the database is nil", "the broker is nil", "Config.Queue: name is empty", `Config.Dialect is "oracle", not one of postgres, mysql, sqlite`,
		"Config.BatchSize is -1; zero means 1000", "Config.DeadLetterTTL is 1µs", "Config.DrainTimeout is -1ns", "Config.TransactionTimeout is -1h0m0s")

	db, _ := testdb.SQLite(t)
	c, err := New(db, newTestBroker(), Config{Queue: "billing"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Table("account", Table{Name: "account_ref"}); err != nil {
		t.Fatal(err)
	}
	requireFaults(t, c.Table("account", Table{Name: "account_ref"}), "the CQRS ID is registered already: take one of the two calls out", `table account_ref follows "account" already`)
	requireFaults(t, c.Table("a b", Table{Key: "cqrs_revision", MaxRetries: -3, RetryDelay: -1, Columns: map[string]string{
		"x": "one", "y": "one", "z": "", "cqrs_updated": "when",
	}}), "CQRS ID \"a b\" contains white space", "Name is empty", "MaxRetries is -3; zero means 30, and there are NoRetries and RetryForever", "RetryDelay is -1ns",
		`Columns maps both "x" and "y" to column one`, `Columns maps "z" to ""`, `Columns maps "cqrs_updated" to "when"`,
		"the columns map no field to the key column cqrs_revision", "Key is cqrs_revision")
}

func TestCheckFaults(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		open := map[Dialect]func(testing.TB) (*sql.DB, string){Postgres: testdb.Postgres, MySQL: testdb.MariaDB, SQLite: testdb.SQLite}
		db, _ := open[d](t)
		for _, ddl := range []string{
			`CREATE TABLE plain (id bigint PRIMARY KEY, name text)`,
			`CREATE TABLE half (id bigint PRIMARY KEY, cqrs_revision bigint NOT NULL)`,
			`CREATE TABLE wrong (id bigint NOT NULL, code text NOT NULL, fixed text NOT NULL DEFAULT 'x', sum bigint GENERATED ALWAYS AS (id + 1) STORED,
				cqrs_revision bigint, cqrs_updated timestamptz NOT NULL)`,
			`CREATE TABLE nullable (id bigint UNIQUE, cqrs_revision bigint NOT NULL, cqrs_updated timestamptz NOT NULL)`,
		} {
			mustExec(t, db, typesOf(d, ddl))
		}
		c, err := New(db, newTestBroker(), Config{Queue: "replica"})
		if err != nil {
			t.Fatal(err)
		}
		requireFaults(t, c.Check(t.Context()), "nothing is registered: call Table", "run `relay migrate up`, or migrations.Up")
		for id, table := range map[string]Table{
			"a": {Name: "absent"},
			"b": {Name: "plain"},
			"c": {Name: "half", Key: "nr"},
			"d": {Name: "wrong", Columns: map[string]string{"id": "id", "total": "sum", "x": "gone"}},
			"e": {Name: "nullable"},
		} {
			if err := c.Table(id, table); err != nil {
				t.Fatal(err)
			}
		}
		add := c.dialect.VersionColumns("plain")
		addOne := map[Dialect]string{
			Postgres: `ALTER TABLE "half" ADD COLUMN cqrs_updated timestamptz NOT NULL DEFAULT clock_timestamp();`,
			MySQL:    "ALTER TABLE `half` ADD COLUMN cqrs_updated datetime(6) NOT NULL DEFAULT (utc_timestamp(6));",
			SQLite:   `ALTER TABLE "half" ADD COLUMN cqrs_updated TEXT NOT NULL DEFAULT '1970-01-01 00:00:00.000000+00:00';`,
		}[d]
		err = c.Check(t.Context())
		requireFaults(t, err,
			"run `relay migrate up`, or migrations.Up",
			`entity "a": table absent: no such table: create it, or correct the declared name of the table`,
			`entity "b": table plain: columns cqrs_revision and cqrs_updated are missing:`+"\n"+add,
			`entity "c": table half: there is no key column nr: make the key one of id, cqrs_revision`,
			`entity "c": table half: column cqrs_updated is missing:`+"\n"+addOne,
			`entity "d": table wrong: field "total" goes to column sum, which the database generates`,
			`entity "d": table wrong: field "x" goes to column gone, which does not exist; there are id, code, fixed, sum, cqrs_revision, cqrs_updated`,
			`entity "d": table wrong: column code may not be null and has no default: map a field to it in Columns`,
			`entity "d": table wrong: key column id is not unique by itself: CREATE UNIQUE INDEX `+fmt.Sprintf("%s ON %s (%s);", d.Quote("lockstep_id"), d.Quote("wrong"), d.Quote("id")),
			`entity "d": table wrong: column cqrs_revision may be null: declare it NOT NULL`,
			`entity "e": table nullable: key column id may be null: declare it NOT NULL`)
		if run := c.Run(t.Context()); run == nil || run.Error() != err.Error() {
			t.Errorf("Run: have %v, want what Check says", run)
		}

		migrate(t, db, d)
		for _, ddl := range strings.SplitAfter(strings.TrimSpace(add), ";") {
			if ddl != "" {
				mustExec(t, db, ddl)
			}
		}
		mustExec(t, db, addOne)
		if err := c.Check(t.Context()); err == nil || strings.Contains(err.Error(), "plain") || strings.Contains(err.Error(), "cqrs_updated is missing") {
			t.Errorf("after its remedies Check still says: %v", err)
		}
	})
}

// TestUnreachableDatabase: Check reports it at once, Run waits until ctx ends.
func TestUnreachableDatabase(t *testing.T) {
	t.Parallel()
	db, _ := testdb.Postgres(t)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	broker := newTestBroker()
	c, err := New(db, broker, Config{Queue: "replica", Dialect: Postgres})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Table("account", Table{Name: "account_ref"}); err != nil {
		t.Fatal(err)
	}
	if err := c.Check(t.Context()); err == nil {
		t.Error("Check: have no error")
	}
	r := &rig{Consumer: c}
	run := r.start(t, broker, broker)
	eventually(t, "the consumer waits", func() bool { return c.Stats().Pauses == 1 })
	if err := run.stop(t); err != nil {
		t.Errorf("Run: %v", errors.Unwrap(err))
	}
}
