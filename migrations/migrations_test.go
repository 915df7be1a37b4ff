package migrations_test

import (
	"database/sql"
	"fmt"
	"strings"
	"testing"

	"github.com/lockstep-go/lockstep/internal/dialect"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/migrations"
)

func TestUpTwice(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *sql.DB, d migrations.Dialect) {
		equal(t, "first Up", allNames, up(t, db, d))
		equal(t, "tables", with(d, versionTable), tables(t, db, d))
		exec(t, db, `INSERT INTO outbox (topic, payload) VALUES ('t', 'p')`)
		equal(t, "second Up", []string(nil), up(t, db, d))
		equal(t, "rows after the second Up", "1", queryText(t, db, `SELECT count(*) FROM outbox`))
	})
}

func TestDownToNothing(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *sql.DB, d migrations.Dialect) {
		for range 2 { // what is down can go up again
			up(t, db, d)
			for _, want := range []string{"00003_replica_retention", "00002_replica", "00001_master", ""} {
				rolledBack, err := migrations.Down(t.Context(), db, d)
				if err != nil {
					t.Fatal(err)
				}
				equal(t, "rolled back", want, strings.Join(names(rolledBack), ","))
			}
			equal(t, "tables", []string{versionTable}, tables(t, db, d))
			status, err := migrations.Status(t.Context(), db, d)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "status", allNames, names(status))
			for _, m := range status {
				if !m.At.IsZero() {
					t.Errorf("%s is applied at %v, want pending", m.Name, m.At)
				}
			}
		}
		if d == migrations.Postgres {
			equal(t, "functions left behind", "0", queryText(t, db, `SELECT count(*) FROM pg_proc WHERE pronamespace = current_schema()::regnamespace`))
		}
	})
}

func TestUnknownDialect(t *testing.T) {
	t.Parallel()
	db, _ := testdb.SQLite(t)
	for _, d := range []migrations.Dialect{"", "oracle", dialect.Name("../postgres")} {
		_, upErr := migrations.Up(t.Context(), db, d)
		_, downErr := migrations.Down(t.Context(), db, d)
		_, statusErr := migrations.Status(t.Context(), db, d)
		_, sqlErr := migrations.SQL(d)
		_, tableErr := migrations.TableSQL(d, "accounts")
		for what, err := range map[string]error{"Up": upErr, "Down": downErr, "Status": statusErr, "SQL": sqlErr, "TableSQL": tableErr} {
			want := fmt.Sprintf("migrations: unknown dialect %q: use one of postgres, mysql, sqlite", d)
			if err == nil || err.Error() != want {
				t.Errorf("%s(%q): %v, want %s", what, d, err, want)
			}
		}
	}
	equal(t, "tables", []string(nil), tables(t, db, migrations.SQLite))
}
