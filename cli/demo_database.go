package cli

import (
	"fmt"
	"net/url"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/lockstep-go/lockstep/cli/demo"
	"github.com/lockstep-go/lockstep/migrations"
)

// openDemoDatabase opens the database of one side of the demo, empty: a file of
// its own, or a schema of its own that is made anew.
func openDemoDatabase(cmd *cobra.Command, raw, folder, side string) (*database, error) {
	ctx := cmd.Context()
	if raw == "" {
		db, err := createDatabase(ctx, "sqlite://"+filepath.ToSlash(folder)+"/"+side+".db")
		if err == nil {
			db.name = "SQLite"
		}
		return db, err
	}
	if u, err := parseDatabaseURL(raw); err == nil && u.dialect == migrations.MySQL {
		return nil, misusef("database %s: the demo runs on PostgreSQL or SQLite", u.name)
	}
	db, err := createDatabase(ctx, raw)
	if err != nil {
		return nil, err
	}
	if db.dialect == migrations.SQLite {
		var tables int
		if err := db.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_schema`).Scan(&tables); err != nil {
			_ = db.Close()
			return nil, fmt.Errorf("database %s: %w", db.name, err)
		}
		if tables > 0 {
			_ = db.Close()
			return nil, misusef("database %s is in use: give the demo a new file", db.name)
		}
		return db, nil
	}
	defer func() { _ = db.Close() }()
	schema := "lockstep_demo_" + side
	for _, statement := range []string{"DROP SCHEMA IF EXISTS " + schema + " CASCADE", "CREATE SCHEMA " + schema} {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return nil, fmt.Errorf("database %s: %s: %w", db.name, statement, err)
		}
	}
	u, err := url.Parse(db.dsn)
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", db.name, withoutURL(err))
	}
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	own, err := createDatabase(ctx, u.String())
	if err == nil {
		own.name = u.Host + u.Path
	}
	return own, err
}

func (db *database) side() demo.Side {
	return demo.Side{DB: db.DB, Dialect: db.dialect, Name: db.name}
}

// brokerName is all of a broker's URL that the demo shows.
func brokerName(raw string) string {
	u, err := url.Parse(raw)
	if err != nil { // several servers of a cluster
		return "broker"
	}
	return u.Scheme + "://" + u.Host
}
