package testdb

import (
	"context"
	"database/sql"
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"
)

// MariaDB returns a connection pool that works in a fresh, empty database, and the data source name
// (driver name "mysql") with which others work in the same database. Pool and database go at the
// end of the test. The test fails at once when the server cannot be used.
//
// A connection takes several statements at once, for tests' scripts, and is otherwise as unhelpful
// as a user's may be: its time zone is not UTC, and the driver hands times on as text. Double quotes
// stand around names, as on the other databases.
func MariaDB(t testing.TB) (db *sql.DB, dsn string) {
	t.Helper()
	server := address(t, MariaDBVariable, defaultMariaDB)
	name := schemaName(t)

	ctx, cancel := context.WithTimeout(t.Context(), reach)
	defer cancel()
	cfg := mariaDBConfig(server)
	admin, err := sql.Open("mysql", cfg.FormatDSN())
	if err == nil {
		_, err = admin.ExecContext(ctx, "CREATE DATABASE `"+name+"` CHARACTER SET utf8mb4")
	}
	if err != nil {
		t.Fatal(missing("mariadb", server, MariaDBVariable, err))
	}
	t.Cleanup(func() { dropDatabase(t, admin, name) })

	cfg.DBName = name
	cfg.MultiStatements = true
	cfg.Params = map[string]string{"time_zone": "'-03:30'", "sql_mode": "'ANSI_QUOTES,STRICT_TRANS_TABLES'"}
	dsn = cfg.FormatDSN()
	db, err = sql.Open("mysql", dsn)
	if err != nil {
		t.Fatalf("testdb: open database %s on %s: %v", name, server.Redacted(), err)
	}
	t.Cleanup(func() { closePool(t, db) }) // before the database goes: cleanups run last in, first out
	return db, dsn
}

// MariaDBURL returns the address of the database of a data source name from MariaDB, as the command
// takes it.
func MariaDBURL(t testing.TB, dsn string) string {
	t.Helper()
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil {
		t.Fatalf("testdb: the data source name is none of MariaDB's")
	}
	u := url.URL{Scheme: "mysql", User: url.UserPassword(cfg.User, cfg.Passwd), Host: cfg.Addr, Path: "/" + cfg.DBName}
	return u.String()
}

func mariaDBConfig(server *url.URL) *mysql.Config {
	cfg := mysql.NewConfig()
	cfg.User = server.User.Username()
	cfg.Passwd, _ = server.User.Password()
	cfg.Net, cfg.Addr = "tcp", server.Host
	if server.Port() == "" {
		cfg.Addr = net.JoinHostPort(server.Hostname(), "3306")
	}
	cfg.DBName = strings.TrimPrefix(server.Path, "/")
	cfg.Timeout = reach
	return cfg
}

// dropDatabase has a context of its own because the test's has ended when cleanups run.
func dropDatabase(t testing.TB, admin *sql.DB, name string) {
	ctx, cancel := context.WithTimeout(context.Background(), reach)
	defer cancel()
	if _, err := admin.ExecContext(ctx, "DROP DATABASE `"+name+"`"); err != nil {
		t.Errorf("testdb: drop database %s (does a transaction of the test still run?): %v", name, err)
	}
	closePool(t, admin)
}
