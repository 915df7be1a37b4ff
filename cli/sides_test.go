package cli_test

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/migrations"
)

// sides is a master and a replica in databases of their own, and what the commands
// need to reach them.
type sides struct {
	t               *testing.T
	master, replica *sql.DB
	// masterURL and replicaURL are the databases', env has the configuration.
	masterURL, replicaURL string
	env                   []string
}

// newSides has its master on PostgreSQL and its replica on SQLite.
func newSides(t *testing.T, rows int) *sides {
	t.Helper()
	return newSidesOn(t, migrations.Postgres, migrations.SQLite, rows)
}

func newSidesOn(t *testing.T, master, replica migrations.Dialect, rows int) *sides {
	t.Helper()
	s := &sides{t: t}
	s.master, s.masterURL = emptyDatabase(t, master)
	s.replica, s.replicaURL = emptyDatabase(t, replica)
	config := writeFile(t, "lockstep.yaml", `
entities:
  account: {table: accounts, fields: [id, name]}
queue: billing
replicas:
  account: {table: account_ref, columns: {id: id, name: title}}
`)
	s.env = []string{"LOCKSTEP_CONFIG=" + config, "XDG_CACHE_HOME=" + t.TempDir()}
	for _, url := range []string{s.masterURL, s.replicaURL} {
		mustRelay(t, "migrate", "up", "--database-url", url)
	}
	s.exec(s.master, `CREATE TABLE accounts (id bigint PRIMARY KEY, name text NOT NULL)`)
	s.exec(s.master, mustRelay(t, "migrate", "table", "accounts", "--dialect", string(master)))
	s.exec(s.master, fmt.Sprintf(`INSERT INTO accounts SELECT i, concat('n', i), 1, CURRENT_TIMESTAMP FROM %s`, numbers(master, rows)))
	s.exec(s.replica, `CREATE TABLE account_ref (id bigint PRIMARY KEY, title text NOT NULL CHECK (title <> 'bad'))`)
	s.exec(s.replica, mustRelay(t, "migrate", "table", "account_ref", "--dialect", string(replica)))
	return s
}

// emptyDatabase makes a database of the test's own.
func emptyDatabase(t *testing.T, d migrations.Dialect) (db *sql.DB, url string) {
	t.Helper()
	switch d {
	case migrations.Postgres:
		return testdb.Postgres(t)
	case migrations.MySQL:
		db, dsn := testdb.MariaDB(t)
		return db, testdb.MariaDBURL(t, dsn)
	}
	path := filepath.Join(t.TempDir(), "lockstep.db")
	db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(60000)") // beside a command that writes, or was killed as it did
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db, "sqlite://" + path
}

// numbers is a table with the column i from 1 to n.
func numbers(d migrations.Dialect, n int) string {
	switch d {
	case migrations.MySQL:
		return fmt.Sprintf("(SELECT seq i FROM seq_1_to_%d WHERE %d > 0) numbers", max(n, 1), n)
	case migrations.SQLite:
		return fmt.Sprintf("(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) SELECT i FROM n WHERE %d > 0) numbers", n, n)
	}
	return fmt.Sprintf("generate_series(1, %d) i", n)
}

func (s *sides) exec(db *sql.DB, query string) {
	s.t.Helper()
	if _, err := db.ExecContext(s.t.Context(), query); err != nil {
		s.t.Fatalf("%s: %v", query, err)
	}
}

func (s *sides) int(db *sql.DB, query string) (n int) {
	s.t.Helper()
	if err := db.QueryRowContext(s.t.Context(), query).Scan(&n); err != nil {
		s.t.Fatalf("%s: %v", query, err)
	}
	return n
}

// onMaster and onReplica run a command of that side.
func (s *sides) onMaster(stdin string, args ...string) outcome {
	return run(s.t, append(s.env, "LOCKSTEP_DATABASE_URL="+s.masterURL), stdin, args...)
}

func (s *sides) onReplica(stdin string, args ...string) outcome {
	return run(s.t, append(s.env, "LOCKSTEP_DATABASE_URL="+s.replicaURL), stdin, args...)
}
