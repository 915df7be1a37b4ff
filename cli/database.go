package cli

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/lib/pq"
	_ "modernc.org/sqlite" // registers "sqlite"

	"github.com/lockstep-go/lockstep/migrations"
)

// connectTimeout bounds the first contact with a database or a broker.
const connectTimeout = 10 * time.Second

// database is an open database and how it was reached.
type database struct {
	*sql.DB
	databaseURL
}

// databaseURL is a database's address in the form its driver wants.
type databaseURL struct {
	dialect migrations.Dialect
	dsn     string // for connections beside the pool, too; holds the password
	name    string // fit to be shown; of an SQLite database its path
}

// parseDatabaseURL reads postgres://…, mysql://… (or mariadb://…) and sqlite:///path. Its errors never hold
// more than the scheme, since a URL that cannot be read may have its password
// anywhere.
func parseDatabaseURL(raw string) (databaseURL, error) {
	scheme, _, _ := strings.Cut(raw, ":")
	switch scheme {
	case "postgres", "postgresql":
		return parsePostgresURL(raw)
	case "mysql", "mariadb":
		return parseMySQLURL(raw)
	case "sqlite":
		return parseSQLiteURL(raw)
	}
	if scheme == raw || !strings.Contains(raw, "://") {
		return databaseURL{}, errors.New("the URL has no scheme: use postgres://user:password@host/name, mysql://user:password@host/name or sqlite:///path")
	}
	return databaseURL{}, fmt.Errorf("unknown scheme %q: use postgres://, mysql:// or sqlite:///path", scheme)
}

func parsePostgresURL(raw string) (databaseURL, error) {
	u, err := parseServerURL(raw)
	if err != nil {
		return databaseURL{}, err
	}
	q := u.Query()
	if !q.Has("connect_timeout") {
		q.Set("connect_timeout", fmt.Sprint(int(connectTimeout.Seconds())))
	}
	u.RawQuery = q.Encode()
	if _, err := pq.NewConfig(u.String()); err != nil {
		return databaseURL{}, withoutURL(err)
	}
	return databaseURL{migrations.Postgres, u.String(), shown(u)}, nil
}

func parseSQLiteURL(raw string) (databaseURL, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return databaseURL{}, errors.New("not a URL: use sqlite:///path, with % # ? written %25 %23 %3F")
	case u.Host+u.Path == "":
		return databaseURL{}, errors.New("the URL names no file: use sqlite:///path")
	case u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return databaseURL{}, errors.New("an SQLite database takes nothing but a path: use sqlite:///path, with # ? @ written %23 %3F %40")
	}
	path := u.Host + u.Path
	if strings.TrimPrefix(path, "/") == ":memory:" {
		return databaseURL{}, errors.New("a database in memory ends with this process: use sqlite:///path")
	}
	// Write-ahead log, and transactions that take the write lock when they
	// begin, so that writers queue instead of failing.
	dsn := url.URL{Scheme: "file", Opaque: url.PathEscape(path), RawQuery: url.Values{
		"_pragma": {"journal_mode(WAL)", "busy_timeout(10000)", "foreign_keys(1)", "synchronous(NORMAL)"},
		"_txlock": {"immediate"},
	}.Encode()}
	return databaseURL{migrations.SQLite, strings.ReplaceAll(dsn.String(), "%2F", "/"), path}, nil
}

// openDatabase connects and fails when the database cannot be reached. It does
// not make an SQLite file that a mistyped path does not find.
func openDatabase(ctx context.Context, raw string) (*database, error) {
	u, err := parseDatabaseURL(raw)
	if err != nil {
		return nil, &misuseError{err: err}
	}
	if u.dialect == migrations.SQLite {
		if _, err := os.Stat(u.name); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("database %s does not exist: correct the path, or make it with `relay migrate up`", u.name)
		}
	}
	return u.open(ctx)
}

// createDatabase is openDatabase for those who put tables into an empty one.
func createDatabase(ctx context.Context, raw string) (*database, error) {
	u, err := parseDatabaseURL(raw)
	if err != nil {
		return nil, &misuseError{err: err}
	}
	return u.open(ctx)
}

func (u databaseURL) open(ctx context.Context) (*database, error) {
	db, err := u.pool()
	if err != nil {
		return nil, misusef("database %s: %w", u.name, withoutURL(err))
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if err := ping(ctx, db); err != nil {
		_ = db.Close()
		return nil, u.unusable(withoutURL(err))
	}
	return &database{DB: db, databaseURL: u}, nil
}

// pool makes no contact yet.
func (u databaseURL) pool() (*sql.DB, error) {
	switch u.dialect {
	case migrations.MySQL:
		return mysqlPool(u.dsn)
	case migrations.Postgres:
		return sql.Open("postgres", u.dsn)
	}
	return sql.Open("sqlite", u.dsn)
}

// ping returns when ctx ends, which lib/pq does not while it waits for a server's
// first answer. The call that is left behind then ends by itself: its URL has a
// connect_timeout.
func ping(ctx context.Context, db *sql.DB) error {
	done := make(chan error, 1)
	go func() { done <- db.PingContext(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// unusable says why the first contact came to nothing. A server that answered was reached.
func (u databaseURL) unusable(err error) error {
	switch serverCode(err) {
	case "28P01", "28000", "1045", "1698":
		return fmt.Errorf("database %s: the server refuses the user: %w: correct user and password in the URL, or let that user in there", u.name, err)
	case "3D000", "1049":
		return fmt.Errorf("database %s: the server has no such database: %w: correct the name in the URL, or CREATE DATABASE", u.name, err)
	case "42501", "1044": // MySQL says so of one that is not there, too
		return fmt.Errorf("database %s: the server does not let the user into it: %w: GRANT it, or correct the name in the URL", u.name, err)
	}
	return fmt.Errorf("database %s cannot be reached: %w", u.name, u.withRemedy(err))
}

// serverCode is what a server calls its error; "" where none has answered.
func serverCode(err error) string {
	if e := (*pq.Error)(nil); errors.As(err, &e) {
		return string(e.Code)
	}
	if e := (*mysql.MySQLError)(nil); errors.As(err, &e) {
		return strconv.Itoa(int(e.Number))
	}
	return ""
}

// withRemedy says more about errors that many will meet.
func (u databaseURL) withRemedy(err error) error {
	switch {
	case errors.Is(err, pq.ErrSSLNotSupported):
		return fmt.Errorf("%w: add ?sslmode=disable to the URL if that is right", err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("no answer in time: %w", err)
	case u.dialect == migrations.SQLite:
		return fmt.Errorf("%w: it has to be a file, or a name for one, in a folder that can be written to", err)
	}
	return err
}

// withoutURL takes the URL, which may hold a password, out of a parse error.
func withoutURL(err error) error {
	var parse *url.Error
	if errors.As(err, &parse) {
		return parse.Err
	}
	return err
}
