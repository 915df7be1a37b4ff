package cli

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/lib/pq"
	_ "modernc.org/sqlite" // registers "sqlite"

	"github.com/lockstep-go/lockstep/migrations"
)

// connectTimeout bounds the first contact with a database or a broker.
const connectTimeout = 10 * time.Second

// database is an open database and how it was reached.
type database struct {
	*sql.DB
	dialect migrations.Dialect
	dsn     string // for connections beside the pool; holds the password
	name    string // fit to be shown
}

// databaseURL is a database's address in the form its driver wants.
type databaseURL struct {
	dialect migrations.Dialect
	dsn     string
	name    string // fit to be shown
}

// parseDatabaseURL reads postgres://… and sqlite:///path. Its errors never hold
// more than the scheme, since a URL that cannot be read may have its password
// anywhere.
func parseDatabaseURL(raw string) (databaseURL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return databaseURL{}, errors.New("not a URL: use postgres://user:password@host/name or sqlite:///path (a character such as % # / in a password is written as %25 %23 %2F)")
	}
	switch u.Scheme {
	case "postgres", "postgresql":
		q := u.Query()
		if !q.Has("connect_timeout") {
			q.Set("connect_timeout", fmt.Sprint(int(connectTimeout.Seconds())))
		}
		u.RawQuery = q.Encode()
		return databaseURL{migrations.Postgres, u.String(), u.Redacted()}, nil
	case "sqlite":
		path := u.Host + u.Path
		if path == "" {
			return databaseURL{}, errors.New("sqlite:// names no file: use sqlite:///path")
		}
		// Write-ahead log, and transactions that take the write lock when they
		// begin, so that writers queue instead of failing.
		dsn := url.URL{Scheme: "file", Opaque: url.PathEscape(path), RawQuery: url.Values{
			"_pragma": {"journal_mode(WAL)", "busy_timeout(10000)", "foreign_keys(1)", "synchronous(NORMAL)"},
			"_txlock": {"immediate"},
		}.Encode()}
		return databaseURL{migrations.SQLite, strings.ReplaceAll(dsn.String(), "%2F", "/"), path}, nil
	case "":
		return databaseURL{}, errors.New("the URL has no scheme: use postgres://… or sqlite:///path")
	}
	return databaseURL{}, fmt.Errorf("unknown scheme %q: use postgres:// or sqlite:///path", u.Scheme)
}

// openDatabase connects and fails when the database cannot be reached.
func openDatabase(ctx context.Context, raw string) (*database, error) {
	u, err := parseDatabaseURL(raw)
	if err != nil {
		return nil, &misuseError{err: err}
	}
	driver := "sqlite"
	if u.dialect == migrations.Postgres {
		driver = "postgres"
	}
	db, err := sql.Open(driver, u.dsn)
	if err != nil {
		return nil, misusef("database %s: %w", u.name, withoutURL(err))
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if err := db.PingContext(ctx); err != nil {
		_ = db.Close()
		if errors.Is(err, pq.ErrSSLNotSupported) {
			err = fmt.Errorf("%w: add ?sslmode=disable to the URL if that is right", err)
		}
		return nil, fmt.Errorf("database %s cannot be reached: %w", u.name, withoutURL(err))
	}
	return &database{DB: db, dialect: u.dialect, dsn: u.dsn, name: u.name}, nil
}

// withoutURL takes the URL, which may hold a password, out of a parse error.
func withoutURL(err error) error {
	var parse *url.Error
	if errors.As(err, &parse) {
		return parse.Err
	}
	return err
}
