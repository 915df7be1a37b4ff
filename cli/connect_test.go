package cli_test

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/lockstep-go/lockstep/broker"
	"github.com/lockstep-go/lockstep/internal/testdb"
)

// listen serves connections on a port of its own until the test ends.
func listen(t *testing.T, serve func(net.Conn)) (address string) {
	t.Helper()
	var config net.ListenConfig
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = conn.Close() })
			go serve(conn)
		}
	}()
	return l.Addr().String()
}

// silent reads and says nothing.
func silent(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }

// withPassword puts another password into a server's URL.
func withPassword(t *testing.T, raw string) string {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal("not a URL")
	}
	u.User = url.UserPassword(u.User.Username(), secret)
	return u.String()
}

// withName puts the name of a database that is not there into a server's URL.
func withName(t *testing.T, raw string) string {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal("not a URL")
	}
	u.Path = "/no_such_database"
	return u.String()
}

// embedded is the URL of a broker of the test's own, without a server.
func embedded(t *testing.T) string { return "jetstream+embedded://" + filepath.ToSlash(t.TempDir()) }

// sqlite is the URL of a migrated database of the test's own.
func sqlite(t *testing.T) string {
	t.Helper()
	raw := "sqlite://" + filepath.ToSlash(t.TempDir()) + "/test.db"
	mustRelay(t, "migrate", "up", "--database-url", raw)
	return raw
}

func TestDatabaseThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	_, postgres := testdb.Postgres(t)
	_, dsn := testdb.MariaDB(t)
	mariadb := testdb.MariaDBURL(t, dsn)
	garbage := writeFile(t, "garbage.db", "this is no database, however long it may be")
	withoutTLS := listen(t, func(conn net.Conn) {
		_, _ = io.ReadFull(conn, make([]byte, 8)) // PostgreSQL's request for TLS
		_, _ = conn.Write([]byte("N"))
	})
	tests := map[string]struct {
		url  string
		want []string
	}{
		"nobody listens":         {noDatabase, []string{"database postgres://user:xxxxx@127.0.0.1:1/name cannot be reached", "refused"}},
		"password in the query":  {"postgres://127.0.0.1:1/name?user=u&sslmode=disable&password=" + secret, []string{"database postgres://127.0.0.1:1/name cannot be reached"}},
		"wrong password":         {withPassword(t, postgres), []string{"the server refuses the user", "password authentication failed", "correct user and password"}},
		"no such database":       {withName(t, postgres), []string{"the server has no such database", "CREATE DATABASE"}},
		"MariaDB's wrong user":   {withPassword(t, mariadb), []string{"the server refuses the user", "Access denied", "correct user and password"}},
		"MariaDB's wrong name":   {withName(t, mariadb), []string{"database", "no_such_database", "correct the name in the URL"}},
		"no answer":              {"postgres://u:" + secret + "@" + listen(t, silent) + "/name?sslmode=disable&connect_timeout=1", []string{"no answer in time"}},
		"no TLS":                 {"postgres://u:" + secret + "@" + withoutTLS + "/name?sslmode=require", []string{"SSL", "add ?sslmode=disable"}},
		"folder does not exist":  {"sqlite:///nonexistent/x.db", []string{"database /nonexistent/x.db cannot be reached", "a folder that can be written to"}},
		"a folder":               {"sqlite://" + t.TempDir(), []string{"cannot be reached", "it has to be a file"}},
		"a file of another kind": {"sqlite://" + garbage, []string{garbage, "not a database"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			relay(t, "migrate", "up", "--database-url", tt.url).expect(t, 1, tt.want...)
		})
	}
}

// A mistyped path must not become an empty database.
func TestSQLiteFileThatDoesNotExist(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mistyped.db")
	config := writeFile(t, "lockstep.yaml", "queue: q\nreplicas: {a: {table: t}}\n")
	for _, line := range []string{
		"run --broker-url " + embedded(t), "consume --config " + config + " --broker-url " + embedded(t), "migrate status", "migrate down --yes",
	} {
		o := relay(t, append(args(line), "--database-url", "sqlite://"+path)...)
		o.expect(t, 1, "database "+path+" does not exist", "relay migrate up")
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("relay %s made the file (%v)", line, err)
		}
	}
}

func TestBrokerThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	database := sqlite(t)
	config := writeFile(t, "lockstep.yaml", "queue: q\nreplicas: {a: {table: t}}\n")
	folder := t.TempDir()
	b, err := broker.Open(t.Context(), "jetstream+embedded://"+folder, broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	tests := map[string]struct {
		url  string
		want []string
	}{
		"nobody listens (RabbitMQ)":   {noBroker, []string{"--broker-url: ", "amqp://user:xxxxx@127.0.0.1:1/", "refused"}},
		"nobody listens (PostgreSQL)": {"postgres://user:" + secret + "@127.0.0.1:1/db?sslmode=disable", []string{"--broker-url: sql: connect to postgres://user:xxxxx@127.0.0.1:1/db", "refused"}},
		"nobody listens (NATS)":       {"nats://user:" + secret + "@127.0.0.1:1", []string{"--broker-url: jetstream: connect"}},
		"wrong password":              {withPassword(t, testdb.RabbitMQURL(t)), []string{"--broker-url: ", "username or password not allowed"}},
		"no answer":                   {"amqp://user:" + secret + "@" + listen(t, silent) + "/?connection_timeout=300", []string{"--broker-url: no answer in time"}},
		"no answer (PostgreSQL)":      {"postgres://user:" + secret + "@" + listen(t, silent) + "/db?connect_timeout=1", []string{"--broker-url: sql: connect to postgres://user:xxxxx@", "timeout"}},
		"folder in use":               {"jetstream+embedded://" + folder, []string{"--broker-url: ", folder}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			relay(t, "run", "--database-url", database, "--broker-url", tt.url).expect(t, 1, tt.want...)
			relay(t, "consume", "--config", config, "--database-url", database, "--broker-url", tt.url).expect(t, 1, tt.want...)
		})
	}
}

// Both commands name the remedy for a database without Lockstep's tables.
func TestNotMigrated(t *testing.T) {
	t.Parallel()
	db, postgres := testdb.Postgres(t)
	if _, err := db.ExecContext(t.Context(), `CREATE TABLE t (id bigint PRIMARY KEY, cqrs_revision bigint NOT NULL, cqrs_updated timestamptz NOT NULL)`); err != nil {
		t.Fatal(err)
	}
	config := writeFile(t, "lockstep.yaml", "queue: q\nreplicas: {a: {table: t}}\nentities: {a: {table: t}}\n")
	for name, database := range map[string]string{
		"PostgreSQL": postgres,
		"SQLite":     "sqlite://" + writeFile(t, "empty.db", ""),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			relay(t, "run", "--database-url", database, "--broker-url", embedded(t)).expect(t, 1, "run `relay migrate up`")
			relay(t, "run", "--database-url", database, "--broker-url", embedded(t), "--config", config).expect(t, 1, "run `relay migrate up`")
			relay(t, "consume", "--database-url", database, "--broker-url", embedded(t), "--config", config).expect(t, 1, "run `relay migrate up`")
		})
	}
}
