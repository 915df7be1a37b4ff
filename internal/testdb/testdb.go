// Package testdb gives each test its own database on the servers that scripts/services starts.
//
// A test that lacks its server fails and names the command that starts it; nothing is ever skipped, so
// a green run means that everything ran. Addresses come from LOCKSTEP_TEST_POSTGRES_URL,
// LOCKSTEP_TEST_MARIADB_URL and LOCKSTEP_TEST_RABBITMQ_URL and default to what scripts/services starts.
// Passwords are redacted wherever an address is shown. All functions are safe for parallel tests.
package testdb

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"    // registers "postgres", too
	_ "modernc.org/sqlite" // registers "sqlite"
)

// Environment variables that name other servers than the default ones.
const (
	PostgresVariable = "LOCKSTEP_TEST_POSTGRES_URL"
	MariaDBVariable  = "LOCKSTEP_TEST_MARIADB_URL"
	RabbitMQVariable = "LOCKSTEP_TEST_RABBITMQ_URL"
)

// What scripts/services starts.
const (
	defaultPostgres = "postgres://lockstep:lockstep@127.0.0.1:5432/lockstep?sslmode=disable"
	defaultMariaDB  = "mysql://lockstep:lockstep@127.0.0.1:3306/lockstep"
	defaultRabbitMQ = "amqp://guest:guest@127.0.0.1:5672/"
)

// reach bounds each step that needs a server: connecting, creating a schema, dropping it.
const reach = time.Minute

// Postgres returns a connection pool that works in a fresh, empty schema, and the data source name
// with which others (a relay, a listener, a child process) work in the same schema. Pool and schema
// go at the end of the test. The test fails at once when the server cannot be used.
//
// The schema stands alone in the search_path; pg_catalog is always searched. Connections left open
// in the schema's name do not hinder its removal, but locks held by them do: the test then fails.
func Postgres(t testing.TB) (db *sql.DB, dsn string) {
	t.Helper()
	server := address(t, PostgresVariable, defaultPostgres)
	schema := schemaName(t)

	ctx, cancel := context.WithTimeout(t.Context(), reach)
	defer cancel()
	admin, err := sql.Open("postgres", server.String())
	if err == nil {
		_, err = admin.ExecContext(ctx, "CREATE SCHEMA "+pq.QuoteIdentifier(schema))
	}
	if err != nil {
		t.Fatal(missing("postgres", server, PostgresVariable, err))
	}
	t.Cleanup(func() { dropSchema(t, admin, schema) })

	own := *server
	q := own.Query()
	q.Set("search_path", schema)
	own.RawQuery = q.Encode()
	dsn = own.String()
	db, err = sql.Open("postgres", dsn)
	if err != nil {
		t.Fatalf("testdb: open %s: %v", own.Redacted(), err)
	}
	t.Cleanup(func() { closePool(t, db) }) // before the schema goes: cleanups run last in, first out
	return db, dsn
}

// SQLite returns a connection pool on a fresh database file and the data source name for opening
// more of them (driver name "sqlite"). The file goes with the test's temporary folder.
//
// Write-ahead log, foreign keys on, a minute's wait for a lock, and transactions that take the
// write lock at BEGIN, so that a reader who turns writer waits instead of failing. Tests do not wait
// for the disk, which a busy machine's may take seconds over; benchmarks do.
func SQLite(t testing.TB) (db *sql.DB, dsn string) {
	t.Helper()
	q := url.Values{
		"_pragma": {"journal_mode(WAL)", "busy_timeout(60000)", "foreign_keys(1)"},
		"_txlock": {"immediate"},
	}
	if _, measures := t.(*testing.B); !measures {
		q.Add("_pragma", "synchronous(off)") // what is written outlives a process that is killed all the same
	}
	file := url.URL{Scheme: "file", Opaque: filepath.Join(t.TempDir(), "test.db"), RawQuery: q.Encode()}
	dsn = file.String()
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		t.Fatalf("testdb: open %s: %v", dsn, err)
	}
	t.Cleanup(func() { closePool(t, db) })
	return db, dsn
}

// RabbitMQURL returns the address of the broker, with its password. The test fails at once when
// nothing listens there. Queues and exchanges are shared by all tests of that server: a test names
// its own uniquely and deletes them.
func RabbitMQURL(t testing.TB) string {
	t.Helper()
	server := address(t, RabbitMQVariable, defaultRabbitMQ)
	port := server.Port()
	switch {
	case port != "":
	case server.Scheme == "amqps":
		port = "5671"
	default:
		port = "5672"
	}
	ctx, cancel := context.WithTimeout(t.Context(), reach)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(server.Hostname(), port))
	if err != nil {
		t.Fatal(missing("rabbitmq", server, RabbitMQVariable, err))
	}
	if err := conn.Close(); err != nil {
		t.Errorf("testdb: close the connection to %s: %v", server.Redacted(), err)
	}
	return server.String()
}

// address reads the server's URL. A parser's error is not shown: it would quote the password.
func address(t testing.TB, variable, standard string) *url.URL {
	t.Helper()
	text, from := os.Getenv(variable), variable
	if text == "" {
		text, from = standard, "the default address"
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		t.Fatalf("testdb: %s is not a URL of the form scheme://user:password@host:port/name", from)
	}
	return u
}

func missing(service string, server *url.URL, variable string, err error) string {
	return fmt.Sprintf("testdb: %s at %s: %v\nstart it with `scripts/services up %s`, or set %s",
		service, server.Redacted(), err, service, variable)
}

// schemaName says which test a schema left behind came from. PostgreSQL cuts names at 63 bytes.
func schemaName(t testing.TB) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToLower(t.Name()))
	return fmt.Sprintf("test_%.40s_%.12s", name, strings.ToLower(rand.Text()))
}

// dropSchema has a context of its own because the test's has ended when cleanups run.
func dropSchema(t testing.TB, admin *sql.DB, schema string) {
	ctx, cancel := context.WithTimeout(context.Background(), reach)
	defer cancel()
	if _, err := admin.ExecContext(ctx, "DROP SCHEMA "+pq.QuoteIdentifier(schema)+" CASCADE"); err != nil {
		t.Errorf("testdb: drop schema %s (does a transaction of the test still run?): %v", schema, err)
	}
	closePool(t, admin)
}

func closePool(t testing.TB, db *sql.DB) {
	if err := db.Close(); err != nil {
		t.Errorf("testdb: close: %v", err)
	}
}
