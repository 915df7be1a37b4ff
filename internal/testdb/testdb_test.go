package testdb_test

import (
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/internal/testdb"
)

func TestPostgresSchemasAreApart(t *testing.T) {
	t.Parallel()
	first, dsn := testdb.Postgres(t)
	second, _ := testdb.Postgres(t)
	exec1(t, first, `CREATE TABLE account (id int)`)
	exec1(t, first, `INSERT INTO account VALUES (7)`)

	if got := text(t, second, `SELECT to_regclass('account') IS NULL`); got != "true" {
		t.Error("a table of the first schema is visible in the second")
	}
	again, err := sql.Open("postgres", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Close() })
	if have, want := text(t, again, `SELECT id FROM account`), "7"; have != want {
		t.Errorf("through the data source name: have %q, want %q", have, want)
	}
}

func TestPostgresSchemaGoesWithTheTest(t *testing.T) {
	t.Parallel()
	var schema string
	ok := t.Run("inner", func(t *testing.T) {
		db, _ := testdb.Postgres(t)
		exec1(t, db, `CREATE TABLE account (id int)`)
		schema = text(t, db, `SELECT current_schema()`)
	})
	if !ok || !strings.HasPrefix(schema, "test_testpostgresschemagoeswiththetest_inner") {
		t.Fatalf("the schema %q does not tell which test it belongs to", schema)
	}
	db, _ := testdb.Postgres(t)
	var left int
	if err := db.QueryRowContext(t.Context(),
		`SELECT count(*) FROM pg_namespace WHERE nspname = $1`, schema).Scan(&left); err != nil {
		t.Fatal(err)
	}
	if left != 0 {
		t.Errorf("schema %s is still there", schema)
	}
}

func TestSQLitePragmas(t *testing.T) {
	t.Parallel()
	db, _ := testdb.SQLite(t)
	have := map[string]string{}
	for _, name := range []string{"journal_mode", "busy_timeout", "foreign_keys", "synchronous"} {
		have[name] = text(t, db, `PRAGMA `+name)
	}
	want := map[string]string{"journal_mode": "wal", "busy_timeout": "60000", "foreign_keys": "1", "synchronous": "0"}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("pragmas (-want +have):\n%s", diff)
	}
}

// Without the write lock at BEGIN both transactions would start, and the second write would fail.
func TestSQLiteTransactionsTakeTheWriteLock(t *testing.T) {
	t.Parallel()
	db, dsn := testdb.SQLite(t)
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()

	impatient, err := sql.Open("sqlite", strings.Replace(dsn, "busy_timeout%2860000%29", "busy_timeout%281%29", 1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = impatient.Close() })
	if other, err := impatient.BeginTx(t.Context(), nil); err == nil {
		_ = other.Rollback()
		t.Error("a second transaction began while the first was open")
	}
}

func TestMariaDBDatabasesAreApart(t *testing.T) {
	t.Parallel()
	first, dsn := testdb.MariaDB(t)
	second, _ := testdb.MariaDB(t)
	exec1(t, first, `CREATE TABLE account (id int)`)
	exec1(t, first, `INSERT INTO account VALUES (7)`)

	count := `SELECT count(*) FROM information_schema.tables WHERE table_schema = DATABASE()`
	if have := text(t, second, count); have != "0" {
		t.Error("a table of the first database is visible in the second")
	}
	again, err := sql.Open("mysql", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Close() })
	if have, want := text(t, again, `SELECT id FROM account`), "7"; have != want {
		t.Errorf("through the data source name: have %q, want %q", have, want)
	}
	if have := testdb.MariaDBURL(t, dsn); !strings.HasPrefix(have, "mysql://") || !strings.Contains(have, "/test_testmariadbdatabasesareapart") {
		t.Errorf("as a URL: %q", have)
	}
}

func TestMariaDBDatabaseGoesWithTheTest(t *testing.T) {
	t.Parallel()
	var name string
	if !t.Run("inner", func(t *testing.T) {
		db, _ := testdb.MariaDB(t)
		name = text(t, db, `SELECT DATABASE()`)
	}) {
		t.FailNow()
	}
	db, _ := testdb.MariaDB(t)
	var left int
	if err := db.QueryRowContext(t.Context(),
		`SELECT count(*) FROM information_schema.schemata WHERE schema_name = ?`, name).Scan(&left); err != nil {
		t.Fatal(err)
	}
	if left != 0 {
		t.Errorf("database %s is still there", name)
	}
}

func TestRabbitMQURL(t *testing.T) {
	t.Parallel()
	if have := testdb.RabbitMQURL(t); !strings.HasPrefix(have, "amqp") {
		t.Errorf("have %q, want an AMQP address", have)
	}
}

// A test that lacks its server must fail, say how to start it, and keep the password to itself.
// The tests that fail run in a child process.
func TestMissingServerFailsTheTest(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, url, want string }{
		{"Postgres", "postgres://someone:s3cret@127.0.0.1:1/x?sslmode=disable", "`scripts/services up postgres`"},
		{"Postgres", "postgres://someone:s3cret@[::1/x", testdb.PostgresVariable + " is not a URL"},
		{"MariaDB", "mysql://someone:s3cret@127.0.0.1:1/x", "`scripts/services up mariadb`"},
		{"MariaDB", "mysql://someone:s3cret@[::1/x", testdb.MariaDBVariable + " is not a URL"},
		{"RabbitMQURL", "amqp://someone:s3cret@127.0.0.1:1/", "`scripts/services up rabbitmq`"},
		{"RabbitMQURL", "someone:s3cret", testdb.RabbitMQVariable + " is not a URL"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$/^"+tt.name+"$")
			cmd.Env = append(os.Environ(), "TESTDB_CHILD=1",
				testdb.PostgresVariable+"="+tt.url, testdb.MariaDBVariable+"="+tt.url, testdb.RabbitMQVariable+"="+tt.url)
			out, err := cmd.CombinedOutput()
			if err == nil {
				t.Error("passes without its server")
			}
			if !strings.Contains(string(out), tt.want) || strings.Contains(string(out), "s3cret") {
				t.Errorf("have\n%s\nwant %q and no password", out, tt.want)
			}
		})
	}
}

func TestChild(t *testing.T) {
	t.Parallel()
	if os.Getenv("TESTDB_CHILD") == "" {
		return // only meant for the child process of TestMissingServerFailsTheTest
	}
	t.Run("Postgres", func(t *testing.T) { testdb.Postgres(t) })
	t.Run("MariaDB", func(t *testing.T) { testdb.MariaDB(t) })
	t.Run("RabbitMQURL", func(t *testing.T) { testdb.RabbitMQURL(t) })
}

func exec1(t *testing.T, db *sql.DB, statement string) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func text(t *testing.T, db *sql.DB, query string) string {
	t.Helper()
	var value any
	if err := db.QueryRowContext(t.Context(), query).Scan(&value); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	if b, ok := value.([]byte); ok {
		return string(b)
	}
	return fmt.Sprint(value)
}
