package migrations

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"strings"

	"github.com/pressly/goose/v3/database"
)

// versionsSQL returns the statements that note the migrations of these paths as
// applied, as goose does, so that Up and Status go on from there.
func versionsSQL(d Dialect, paths []string) (string, error) {
	of := map[Dialect]database.Dialect{Postgres: database.DialectPostgres, MySQL: database.DialectMySQL, SQLite: database.DialectSQLite3}
	store, err := database.NewStore(of[d], versionTable)
	if err != nil {
		return "", fmt.Errorf("migrations: %w", err)
	}
	var table recording
	if err := store.CreateVersionTable(context.Background(), &table); err != nil {
		return "", fmt.Errorf("migrations: %w", err)
	}
	versions := []string{"(0, true)"} // goose's own beginning
	for _, path := range paths {
		number, _, _ := strings.Cut(name(path), "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return "", fmt.Errorf("migrations: %s has no version: %w", path, err)
		}
		versions = append(versions, fmt.Sprintf("(%d, true)", version))
	}
	return fmt.Sprintf("-- what is applied, for `relay migrate up` and `status`\n%s;\nINSERT INTO %s (version_id, is_applied) VALUES %s;\n",
		strings.ReplaceAll(table.text, "\n\t", "\n"), versionTable, strings.Join(versions, ", ")), nil
}

// recording is a connection that keeps the statement and runs nothing.
type recording struct {
	database.DBTxConn

	text string
}

func (r *recording) ExecContext(_ context.Context, query string, _ ...any) (sql.Result, error) {
	r.text = query
	return nil, nil //nolint:nilnil // goose does not look at it
}
