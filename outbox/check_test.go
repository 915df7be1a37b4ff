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
		m.exec(t, `CREATE TABLE half (id INTEGER PRIMARY KEY, cqrs_revision BIGINT)`)
		m.exec(t, `CREATE TABLE rest (id INTEGER PRIMARY KEY, cqrs_updated TEXT)`)
		ob, err := outbox.New(outbox.Config{Dialect: m.dialect, Entities: []outbox.Entity{
			{ID: "half", Table: "half"},
			{ID: "rest", Table: "rest"},
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
		quote := map[bool]string{true: "`", false: `"`}[m.dialect == outbox.MySQL]
		err = ob.Check(t.Context(), m.DB)
		for _, part := range []string{
			"entity missing: table nowhere: no such table",
			`entity keyless: table accounts has no column "number" for the key: correct Key; it has id, name, balance`,
			`entity fields: table accounts has no column "nam"`,
			"entity bare: table bare lacks cqrs_revision and cqrs_updated", "ADD COLUMN cqrs_revision",
			"entity half: table half lacks cqrs_updated: ", "half" + quote + " ADD COLUMN cqrs_updated",
			"entity rest: table rest lacks cqrs_revision: ", "rest" + quote + " ADD COLUMN cqrs_revision",
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

// TestCheckFindsWhatTheFirstInsertFailsOf: the version columns of a table that
// Django made have no defaults. With the remedy, Check is content and the INSERT passes.
func TestCheckFindsWhatTheFirstInsertFailsOf(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		at := map[outbox.Dialect]string{outbox.Postgres: "timestamptz", outbox.MySQL: "datetime(6)", outbox.SQLite: "datetime"}[m.dialect]
		m.exec(t, `CREATE TABLE shop_account (id INTEGER PRIMARY KEY, cqrs_revision integer NOT NULL, cqrs_updated `+at+` NOT NULL)`)
		ob, err := outbox.New(outbox.Config{Dialect: m.dialect, Entities: []outbox.Entity{{ID: "account", Table: "shop_account"}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := ob.CheckTables(t.Context(), m.DB); err != nil {
			t.Errorf("for a reader the table is as it should be: %v", err)
		}
		err = ob.Check(t.Context(), m.DB)
		want := "outbox: entity account: table shop_account has no default for cqrs_revision and cqrs_updated"
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Fatalf("have %v, want %s", err, want)
		}
		remedy := err.Error()[strings.Index(err.Error(), "\n")+1:]
		if m.dialect == outbox.SQLite {
			remedy = "DROP TABLE shop_account; CREATE TABLE shop_account (id INTEGER PRIMARY KEY, " + remedy + ")"
		}
		m.exec(t, remedy)
		ob, err = outbox.New(outbox.Config{Dialect: m.dialect, Entities: []outbox.Entity{{ID: "account", Table: "shop_account"}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := ob.Check(t.Context(), m.DB); err != nil {
			t.Errorf("after the remedy: %v", err)
		}
		m.exec(t, `INSERT INTO shop_account (id) VALUES (1)`)
	})
}

// TestCheckFindsMissingRights: the remedy is what the role lacks, and enough. Without
// Check, the first write says so once.
func TestCheckFindsMissingRights(t *testing.T) {
	t.Parallel()
	db, _ := testdb.Postgres(t)
	m := newMaster(t, db, outbox.Postgres)
	m.exec(t, `REVOKE ALL ON outbox, outbox_tombstones, outbox_leases, accounts FROM current_user`)
	m.exec(t, `REVOKE ALL ON SEQUENCE outbox_id_seq FROM current_user`)
	err := m.ob.Check(t.Context(), m.DB)
	if err == nil {
		t.Fatal("Check sees no fault")
	}
	head, remedy, _ := strings.Cut(err.Error(), "\n")
	if want := "outbox: the database's role lacks rights"; !strings.HasPrefix(head, want) || strings.Count(remedy, "GRANT") != 6 {
		t.Errorf("have %v, want %s and six GRANTs", err, want)
	}
	m.exec(t, remedy)
	m.exec(t, `REVOKE ALL ON SEQUENCE outbox_id_seq FROM current_user`)
	m.exec(t, `GRANT INSERT (id, name) ON accounts TO current_user`)
	tracked, err := outbox.New(outbox.Config{Dialect: m.dialect, Entities: []outbox.Entity{{ID: "account", Table: "accounts", Tracked: []string{"name"}}}})
	if err != nil {
		t.Fatal(err)
	}
	save := func() error {
		return tracked.InTx(t.Context(), m.DB, func(ctx context.Context, tx *outbox.Tx) error {
			if err := tx.Track(ctx, "account", 1); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `INSERT INTO accounts (id, name) VALUES (1, 'Ada')`); err != nil {
				return err
			}
			return tx.Saved("account", 1)
		})
	}
	if err := save(); err == nil || !strings.HasPrefix(err.Error(), "outbox: account/1: pq: ") {
		t.Errorf("a write without the sequence: %v", err)
	}
	m.exec(t, remedy)
	if err := errors.Join(m.ob.Check(t.Context(), m.DB), save()); err != nil {
		t.Errorf("with the rights of the remedy: %v", err)
	}
}

// A database that is not migrated hides no other fault.
func TestCheckOfWhatIsNotMigrated(t *testing.T) {
	t.Parallel()
	db, _ := testdb.SQLite(t)
	ob, err := outbox.New(outbox.Config{Dialect: outbox.SQLite, Entities: []outbox.Entity{{ID: "missing", Table: "nowhere"}}})
	if err != nil {
		t.Fatal(err)
	}
	err = ob.Check(t.Context(), db)
	if !errors.Is(err, outbox.ErrNotMigrated) || !strings.Contains(err.Error(), "entity missing: table nowhere: no such table") {
		t.Errorf("have %v, want both faults", err)
	}
}
