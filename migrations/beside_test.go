package migrations_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/migrations"
)

// Several instances of a service start at the same time, each with a pool of its
// own: one migrates, all find a migrated database.
func TestUpConcurrently(t *testing.T) {
	t.Parallel()
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		_, dsn := testdb.Postgres(t)
		upConcurrently(t, migrations.Postgres, dsn)
	})
	t.Run("mysql", func(t *testing.T) {
		t.Parallel()
		_, dsn := testdb.MariaDB(t)
		upConcurrently(t, migrations.MySQL, dsn)
	})
}

func upConcurrently(t *testing.T, d migrations.Dialect, dsn string) {
	t.Helper()
	const instances = 8
	var group sync.WaitGroup
	var mu sync.Mutex
	var applied []string
	for i := range instances {
		db, err := sql.Open(string(d), dsn)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		group.Go(func() {
			list, err := migrations.Up(t.Context(), db, d)
			if err != nil {
				t.Errorf("instance %d: %v", i, err)
			}
			if missing := missingTables(t.Context(), db, d); missing != "" {
				t.Errorf("instance %d: Up returned without %s", i, missing)
			}
			mu.Lock()
			defer mu.Unlock()
			applied = append(applied, names(list)...)
		})
	}
	group.Wait()
	equal(t, "applied by all instances together", allNames, applied)
}

func missingTables(ctx context.Context, db *sql.DB, d migrations.Dialect) (missing string) {
	for _, table := range ours {
		if _, err := d.LoadTable(ctx, db, table); err != nil {
			missing += fmt.Sprintf("%v ", err)
		}
	}
	return missing
}

// hold takes an advisory lock until the test ends.
func hold(t *testing.T, db *sql.DB, lock string) {
	t.Helper()
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := conn.ExecContext(t.Context(), `SELECT pg_advisory_lock(`+lock+`)`); err != nil {
		t.Fatal(err)
	}
}

// A lock that somebody holds on another schema is no reason to wait.
func TestUpBesideAnotherSchema(t *testing.T) {
	t.Parallel()
	db, _ := testdb.Postgres(t)
	hold(t, db, `4097083626`)                        // goose's
	hold(t, db, `1818979687, hashtext('elsewhere')`) // ours
	equal(t, "Up", allNames, up(t, db, migrations.Postgres))
}

// Whoever ends an Up that waits for its turn gets to know that, and why.
func TestUpIsCanceled(t *testing.T) {
	t.Parallel()
	db, _ := testdb.Postgres(t)
	hold(t, db, `1818979687, hashtext(current_schema())`)
	ctx, cancel := context.WithCancelCause(t.Context())
	errStopped := errors.New("stopped")
	ended := make(chan error, 1)
	go func() {
		_, err := migrations.Up(ctx, db, migrations.Postgres)
		ended <- err
	}()
	for deadline := time.Now().Add(patience); queryText(t, db, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
		AND classid = 1818979687 AND objid::bigint = hashtext(current_schema())::bigint & 4294967295`) != "1"; {
		if time.Now().After(deadline) {
			t.Fatal("Up does not wait for the lock")
		}
	}
	cancel(errStopped)
	if err := <-ended; !errors.Is(err, context.Canceled) || !errors.Is(err, errStopped) {
		t.Errorf("Up: %v, want that its context was canceled, and why", err)
	}
}

// A service that runs goose for its own tables keeps its own count.
func TestUpBesideGoose(t *testing.T) {
	t.Parallel()
	theirs := fstest.MapFS{
		"00001_accounts.sql": {Data: []byte("-- +goose Up\nCREATE TABLE accounts (id integer);\n-- +goose Down\nDROP TABLE accounts;\n")},
		"00007_authors.sql":  {Data: []byte("-- +goose Up\nCREATE TABLE authors (id integer);\n-- +goose Down\nDROP TABLE authors;\n")},
	}
	onEach(t, func(t *testing.T, db *sql.DB, d migrations.Dialect) {
		gooseDialects := map[migrations.Dialect]goose.Dialect{
			migrations.Postgres: goose.DialectPostgres, migrations.MySQL: goose.DialectMySQL, migrations.SQLite: goose.DialectSQLite3,
		}
		p, err := goose.NewProvider(gooseDialects[d], db, theirs)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Up(t.Context()); err != nil {
			t.Fatal(err)
		}
		equal(t, "Up", allNames, up(t, db, d))
		equal(t, "tables", with(d, versionTable, "goose_db_version", "accounts", "authors"), tables(t, db, d))
		if _, err := migrations.Down(t.Context(), db, d); err != nil {
			t.Fatal(err)
		}
		version, err := p.GetDBVersion(t.Context())
		if err != nil || version != 7 {
			t.Errorf("the service's own version is %d (%v), want 7", version, err)
		}
		if _, err := p.Down(t.Context()); err != nil {
			t.Fatal(err)
		}
		equal(t, "Up after the service's own Down", allNames[len(allNames)-1:], up(t, db, d))
	})
}
