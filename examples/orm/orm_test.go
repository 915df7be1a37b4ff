package orm

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // registers "pgx"
	"github.com/jmoiron/sqlx"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/outbox"
	"github.com/lockstep-go/lockstep/outboxtest"
)

// rename is one of the examples.
type rename func(ctx context.Context, db *sql.DB, ob *outbox.Outbox, id int64, name string) error

func openGORM(t *testing.T, db *sql.DB, prepare bool) *gorm.DB {
	t.Helper()
	g, err := gorm.Open(postgres.New(postgres.Config{Conn: db}), &gorm.Config{Logger: logger.Discard, PrepareStmt: prepare})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// examples are all of them, through each driver they work with.
func examples(t *testing.T) map[string]rename {
	gormWith := func(prepare bool) rename {
		return func(ctx context.Context, db *sql.DB, ob *outbox.Outbox, id int64, name string) error {
			return WithGORM(ctx, openGORM(t, db, prepare), ob, id, name)
		}
	}
	return map[string]rename{
		"InTx":                  WithInTx,
		"database/sql":          WithDatabaseSQL,
		"sqlc":                  WithSqlc,
		"GORM":                  gormWith(false),
		"GORM with PrepareStmt": gormWith(true),
		"sqlx": func(ctx context.Context, db *sql.DB, ob *outbox.Outbox, id int64, name string) error {
			return WithSqlx(ctx, sqlx.NewDb(db, "postgres"), ob, id, name)
		},
		"bun": func(ctx context.Context, db *sql.DB, ob *outbox.Outbox, id int64, name string) error {
			return WithBun(ctx, bun.NewDB(db, pgdialect.New()), ob, id, name)
		},
	}
}

// master is a migrated database with one account, reached through a guarded pool
// of the driver.
func master(t *testing.T, driver string) (*sql.DB, *outbox.Outbox) {
	t.Helper()
	plain, dsn := testdb.Postgres(t)
	if _, err := migrations.Up(t.Context(), plain, outbox.Postgres); err != nil {
		t.Fatal(err)
	}
	schema, err := os.ReadFile("accounts/schema.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{string(schema), `INSERT INTO accounts (id, name) VALUES (42, 'before')`} {
		if _, err := plain.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	ob, err := outbox.New(outbox.Config{Dialect: outbox.Postgres, Entities: []outbox.Entity{{ID: "account", Table: "accounts"}}})
	if err != nil {
		t.Fatal(err)
	}
	db, err := ob.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if err := ob.Check(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	return db, ob
}

func TestEachRecordsTheChange(t *testing.T) {
	t.Parallel()
	for _, driver := range []string{"postgres", "pgx"} {
		for name, example := range examples(t) {
			t.Run(driver+" "+name, func(t *testing.T) {
				t.Parallel()
				db, ob := master(t, driver)
				for revision, name := range []string{"first", "second", "third"} { // drivers prepare what is repeated
					if err := example(t.Context(), db, ob, 42, name); err != nil {
						t.Fatal(err)
					}
					outboxtest.RequireEvent(t, db, outboxtest.Event{
						Entity: "account", Key: "42", Signal: event.Save, Revision: int64(revision) + 1, Data: map[string]any{"id": 42, "name": name},
					})
				}
				if err := example(t.Context(), db, ob, 43, "nobody"); err == nil {
					t.Error("an account that does not exist was renamed")
				}
				if n := len(outboxtest.Events(t, db)); n != 3 {
					t.Errorf("%d events, want 3", n)
				}
			})
		}
	}
}

// What the guard is for: a function that forgets the flush commits nothing.
func TestForgottenFlush(t *testing.T) {
	t.Parallel()
	for _, driver := range []string{"postgres", "pgx"} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			db, ob := master(t, driver)
			byGORM := openGORM(t, db, true).Transaction(func(g *gorm.DB) error {
				sqlTx, err := sqlTxOf(g)
				if err != nil {
					return err
				}
				return errors.Join(g.Model(&Account{ID: 42}).Update("name", "lost").Error, ob.Wrap(sqlTx).Saved("account", 42))
			})
			byBun := bun.NewDB(db, pgdialect.New()).RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
				_, err := tx.NewUpdate().Model(&Account{ID: 42, Name: "lost"}).Column("name").WherePK().Exec(ctx)
				return errors.Join(err, ob.Wrap(tx.Tx).Saved("account", 42))
			})
			for who, err := range map[string]error{"GORM": byGORM, "bun": byBun} {
				if !errors.Is(err, outbox.ErrNotFlushed) {
					t.Errorf("%s committed: %v, want ErrNotFlushed", who, err)
				}
			}
			var name string
			if err := db.QueryRowContext(t.Context(), `SELECT name FROM accounts`).Scan(&name); err != nil || name != "before" {
				t.Errorf("the account is called %q (%v), want what it was before", name, err)
			}
			outboxtest.RequireNone(t, db)
		})
	}
}
