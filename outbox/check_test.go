package outbox_test

import (
	"context"
	"database/sql"
	"errors"
	osexec "os/exec"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/outbox"
)

func TestDualWriteDoesNotCompile(t *testing.T) {
	t.Parallel()
	out, err := osexec.CommandContext(t.Context(), "go", "build", "-o", t.TempDir(), "./testdata/dualwrite").CombinedOutput()
	if want := "cannot use db (variable of type *sql.DB) as *sql.Tx value in argument to ob.Wrap"; err == nil || !strings.Contains(string(out), want) {
		t.Errorf("go build: %v\n%s\nwant it to say: %s", err, out, want)
	}
}

func TestConfigFaultsComeTogether(t *testing.T) {
	t.Parallel()
	_, err := outbox.New(outbox.Config{Dialect: "oracle", Entities: []outbox.Entity{
		{ID: "a b", Table: "t"},
		{ID: "account", Table: "accounts"},
		{ID: "account", Table: "others"},
		{ID: "author", Fields: []string{"name", "name", "", "cqrs_revision"}, TTL: time.Millisecond},
	}})
	for _, part := range []string{
		`Dialect is "oracle": use one of postgres, mysql, sqlite`, "white space", "account is declared twice", "entity author: no Table",
		`"name" is named twice`, "empty name in Fields", `"cqrs_revision" is always sent`, `key "id" is not in Fields`, "TTL is 1ms: use whole seconds",
	} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not say %q:\n%v", part, err)
		}
	}
	if _, err := outbox.New(outbox.Config{Dialect: outbox.SQLite}); err == nil || !strings.Contains(err.Error(), "at least one entity") {
		t.Errorf("no entities: %v", err)
	}
}

func TestCheckComparesWithTheDatabase(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.exec(t, `CREATE TABLE bare (id INTEGER PRIMARY KEY, name TEXT)`)
		m.exec(t, `CREATE TABLE loose (id INTEGER, cqrs_revision BIGINT, cqrs_updated TEXT)`)
		ob, err := outbox.New(outbox.Config{Dialect: m.dialect, Entities: []outbox.Entity{
			{ID: "good", Table: "accounts"},
			{ID: "missing", Table: "nowhere"},
			{ID: "keyless", Table: "accounts", Key: "number"},
			{ID: "fields", Table: "accounts", Fields: []string{"id", "nam"}},
			{ID: "bare", Table: "bare"},
			{ID: "loose", Table: "loose"},
			{ID: "injection", Table: `accounts"; DROP TABLE accounts; --`},
		}})
		if err != nil {
			t.Fatal(err)
		}
		err = ob.Check(t.Context(), m.DB)
		for _, part := range []string{
			"entity missing: table nowhere does not exist",
			`entity keyless: table accounts has no column "number" for the key: correct Key; it has id, name, balance`,
			`entity fields: table accounts has no column "nam"`,
			"entity bare: table bare lacks cqrs_revision or cqrs_updated", "ADD COLUMN cqrs_revision",
			`entity loose: table loose may hold several rows with one "id"`,
			"entity injection: table",
		} {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("the error does not say %q:\n%v", part, err)
			}
		}
		if err != nil && strings.Contains(err.Error(), "entity good") {
			t.Errorf("entity good has no fault:\n%v", err)
		}
		m.wantAccounts(t, 0)
	})
}

func TestNotMigrated(t *testing.T) {
	t.Parallel()
	check := func(t *testing.T, db *sql.DB, d outbox.Dialect) {
		t.Helper()
		updated := map[outbox.Dialect]string{
			outbox.Postgres: "timestamptz NOT NULL DEFAULT now()", outbox.SQLite: "TEXT NOT NULL DEFAULT ''",
			outbox.MySQL: "datetime(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6))",
		}[d]
		if _, err := db.ExecContext(t.Context(), `CREATE TABLE accounts (id INTEGER PRIMARY KEY, cqrs_revision BIGINT NOT NULL DEFAULT 0,
			cqrs_updated `+updated+`)`); err != nil {
			t.Fatal(err)
		}
		ob, err := outbox.New(outbox.Config{Dialect: d, Entities: []outbox.Entity{{ID: "account", Table: "accounts"}}})
		if err != nil {
			t.Fatal(err)
		}
		flush := ob.InTx(t.Context(), db, func(ctx context.Context, tx *outbox.Tx) error {
			return errors.Join(exec(ctx, tx, `INSERT INTO accounts (id) VALUES (1)`), tx.Saved("account", 1))
		})
		for what, err := range map[string]error{"Check": ob.Check(t.Context(), db), "a flush": flush} {
			if !errors.Is(err, outbox.ErrNotMigrated) || !strings.Contains(err.Error(), "relay migrate up") {
				t.Errorf("%s: %v, want ErrNotMigrated with its remedy", what, err)
			}
		}
	}
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		db, _ := testdb.Postgres(t)
		check(t, db, outbox.Postgres)
	})
	t.Run("mysql", func(t *testing.T) {
		t.Parallel()
		db, _ := testdb.MariaDB(t)
		check(t, db, outbox.MySQL)
	})
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		db, _ := testdb.SQLite(t)
		check(t, db, outbox.SQLite)
	})
}
