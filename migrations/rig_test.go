package migrations_test

import (
	"database/sql"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/migrations"
)

// ours are the tables that a migrated database has for us.
var ours = []string{"outbox", "outbox_dead", "outbox_failures", "outbox_leases", "outbox_relays", "outbox_shards", "outbox_tombstones", "replica_inbox", "replica_tombstones"}

const versionTable = "lockstep_db_version"

// patience is for what takes milliseconds on an idle machine.
const patience = time.Minute

var allNames = []string{"00001_master", "00002_replica", "00003_replica_retention"}

// onEach runs a test on a fresh database of each kind.
func onEach(t *testing.T, test func(t *testing.T, db *sql.DB, d migrations.Dialect)) {
	t.Helper()
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		db, _ := testdb.Postgres(t)
		test(t, db, migrations.Postgres)
	})
	t.Run("mysql", func(t *testing.T) {
		t.Parallel()
		db, _ := testdb.MariaDB(t)
		test(t, db, migrations.MySQL)
	})
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		db, _ := testdb.SQLite(t)
		test(t, db, migrations.SQLite)
	})
}

// tables lists the tables of a test's database.
func tables(t *testing.T, db *sql.DB, d migrations.Dialect) (names []string) {
	t.Helper()
	query := `SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'`
	switch d {
	case migrations.MySQL:
		query = `SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()`
	case migrations.SQLite:
		query = `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'`
	}
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

func exec(t *testing.T, db *sql.DB, statement string) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func queryText(t *testing.T, db *sql.DB, query string) (text string) {
	t.Helper()
	if err := db.QueryRowContext(t.Context(), query).Scan(&text); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return text
}

func names(list []migrations.Applied) (all []string) {
	for _, m := range list {
		all = append(all, m.Name)
	}
	return all
}

func up(t *testing.T, db *sql.DB, d migrations.Dialect) []string {
	t.Helper()
	applied, err := migrations.Up(t.Context(), db, d)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range applied {
		if m.At.IsZero() || m.Version == 0 {
			t.Errorf("applied without version or time: %+v", m)
		}
	}
	return names(applied)
}

func equal(t *testing.T, what string, want, have any) {
	t.Helper()
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("%s (-want +have):\n%s", what, diff)
	}
}

func with(d migrations.Dialect, more ...string) []string {
	all := slices.Concat(ours, more)
	if d == migrations.MySQL { // which has no other lock on a name
		all = append(all, "replica_locks")
	}
	slices.Sort(all)
	return all
}
