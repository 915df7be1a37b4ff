// Package migrations creates Lockstep's own tables and prints the lines that a
// master's or a replica's table needs. The SQL is embedded, one folder a
// database, and run by goose with a version table of its own
// (lockstep_db_version), so it lives beside any other migrations in the same
// database. One set serves both sides: a service may be master and replica.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/lockstep-go/lockstep/internal/dialect"
)

//go:embed postgres/*.sql mysql/*.sql sqlite/*.sql
var files embed.FS

// versionTable keeps what goose has applied.
const versionTable = "lockstep_db_version"

// Dialect says which database's SQL to run.
type Dialect = dialect.Name

// The databases there are migrations for.
const (
	Postgres = dialect.Postgres
	MySQL    = dialect.MySQL
	SQLite   = dialect.SQLite
)

// Applied is one migration and when it was applied; the zero time means pending.
type Applied struct {
	Version int64     `json:"version"`
	Name    string    `json:"name"`
	At      time.Time `json:"applied_at,omitzero"`
}

// Up applies every pending migration in order and returns those it applied. On
// PostgreSQL and MySQL a session lock lets several processes call it at the same time: one
// works and the others wait, for 5 minutes at most.
func Up(ctx context.Context, db *sql.DB, d Dialect) (_ []Applied, err error) {
	defer func() { err = dialect.WithCause(ctx, err) }()
	p, err := provider(db, d)
	if err != nil {
		return nil, err
	}
	results, err := p.Up(ctx)
	if err != nil {
		return nil, fmt.Errorf("migrations: up: %w", err)
	}
	applied := make([]Applied, len(results))
	for i, r := range results {
		applied[i] = Applied{Version: r.Source.Version, Name: name(r.Source.Path), At: time.Now()}
	}
	return applied, nil
}

// Down rolls the newest applied migration back and returns it, or nothing when
// none was applied. Its tables and what is in them are dropped.
func Down(ctx context.Context, db *sql.DB, d Dialect) (_ []Applied, err error) {
	defer func() { err = dialect.WithCause(ctx, err) }()
	p, err := provider(db, d)
	if err != nil {
		return nil, err
	}
	result, err := p.Down(ctx)
	switch {
	case errors.Is(err, goose.ErrNoNextVersion):
		return []Applied{}, nil
	case err != nil:
		return nil, fmt.Errorf("migrations: down: %w", err)
	}
	return []Applied{{Version: result.Source.Version, Name: name(result.Source.Path)}}, nil
}

// Status lists every migration in order.
func Status(ctx context.Context, db *sql.DB, d Dialect) ([]Applied, error) {
	p, err := provider(db, d)
	if err != nil {
		return nil, err
	}
	list, err := p.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("migrations: status: %w", err)
	}
	status := make([]Applied, len(list))
	for i, s := range list {
		status[i] = Applied{Version: s.Source.Version, Name: name(s.Source.Path), At: s.AppliedAt}
	}
	return status, nil
}

// SQL returns the statements of every migration in order, for teams that run
// their own migration tool. The last ones note the versions in Up's own table, so
// that Up does what later releases add, or nothing.
func SQL(d Dialect) (string, error) {
	folder, err := folder(d)
	if err != nil {
		return "", err
	}
	paths, err := fs.Glob(folder, "*.sql")
	if err != nil {
		return "", fmt.Errorf("migrations: %w", err)
	}
	var b strings.Builder
	for _, path := range paths {
		text, err := fs.ReadFile(folder, path)
		if err != nil {
			return "", fmt.Errorf("migrations: %w", err)
		}
		up, _, _ := strings.Cut(string(text), "-- +goose Down")
		fmt.Fprintf(&b, "-- %s\n", name(path))
		for line := range strings.Lines(up) {
			if !strings.HasPrefix(line, "-- +goose") {
				b.WriteString(line)
			}
		}
	}
	versions, err := versionsSQL(d, paths)
	if err != nil {
		return "", err
	}
	b.WriteString("\n" + versions)
	return b.String(), nil
}

// TableSQL returns the statements that give a master's or a replica's table the
// columns which order the events of a row.
func TableSQL(d Dialect, table string) (string, error) {
	if !d.Valid() {
		return "", unknown(d)
	}
	return d.VersionColumns(table), nil
}

func provider(db *sql.DB, d Dialect) (*goose.Provider, error) {
	folder, err := folder(d)
	if err != nil {
		return nil, err
	}
	var options []goose.ProviderOption
	var gooseDialect goose.Dialect
	switch d {
	case Postgres:
		gooseDialect = goose.DialectPostgres
		options = append(options, goose.WithTableName(versionTable), goose.WithSessionLocker(sessionLock{}))
	case MySQL: // a store of one's own goes without a dialect
		store, err := newMySQLStore()
		if err != nil {
			return nil, fmt.Errorf("migrations: %w", err)
		}
		options = append(options, goose.WithStore(store), goose.WithSessionLocker(mysqlLock{}))
	case SQLite:
		gooseDialect = goose.DialectSQLite3
		options = append(options, goose.WithTableName(versionTable))
	}
	p, err := goose.NewProvider(gooseDialect, db, folder, options...)
	if err != nil {
		return nil, fmt.Errorf("migrations: %w", err)
	}
	return p, nil
}

func folder(d Dialect) (fs.FS, error) {
	if !d.Valid() {
		return nil, unknown(d)
	}
	return fs.Sub(files, string(d))
}

func unknown(d Dialect) error {
	return fmt.Errorf("migrations: unknown dialect %q: use one of %s", d, dialect.Known)
}

func name(path string) string {
	path = path[strings.LastIndexByte(path, '/')+1:]
	return strings.TrimSuffix(path, ".sql")
}
