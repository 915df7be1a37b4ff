package reconcile_test

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/outbox"
	"github.com/lockstep-go/lockstep/reconcile"
)

// rig is a master and a replica of accounts, in databases of their own.
type rig struct {
	t       *testing.T
	master  reconcile.Master
	replica reconcile.Replica
}

// noBroker is never used: nothing is consumed.
type noBroker struct {
	message.Publisher
	message.Subscriber
}

func (noBroker) Close() error { return nil }

// onEach runs a test with both sides on each database, and with one on each.
func onEach(t *testing.T, test func(t *testing.T, r *rig)) {
	for name, d := range map[string][2]migrations.Dialect{
		"postgres":           {migrations.Postgres, migrations.Postgres},
		"sqlite":             {migrations.SQLite, migrations.SQLite},
		"mysql":              {migrations.MySQL, migrations.MySQL},
		"postgres to mysql":  {migrations.Postgres, migrations.MySQL},
		"postgres to sqlite": {migrations.Postgres, migrations.SQLite},
		"sqlite to postgres": {migrations.SQLite, migrations.Postgres},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newRig(t, d[0], d[1]))
		})
	}
}

func open(t testing.TB, d migrations.Dialect) *sql.DB {
	t.Helper()
	var db *sql.DB
	switch d {
	case migrations.SQLite:
		db, _ = testdb.SQLite(t)
	case migrations.MySQL:
		db, _ = testdb.MariaDB(t)
	default:
		db, _ = testdb.Postgres(t)
	}
	if _, err := migrations.Up(t.Context(), db, d); err != nil {
		t.Fatal(err)
	}
	return db
}

// spelled is a type as a database has it: one that can be a key, and one for times.
func spelled(d migrations.Dialect, typ string) string {
	switch {
	case d != migrations.MySQL:
	case typ == "TEXT":
		return "VARCHAR(40) COLLATE utf8mb4_bin"
	case typ == "TIMESTAMP":
		return "DATETIME(6)"
	}
	return typ
}

func table(t testing.TB, db *sql.DB, d migrations.Dialect, name, create string) {
	t.Helper()
	columns, err := migrations.TableSQL(d, name)
	if err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{create, columns} {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

func newRig(t *testing.T, md, rd migrations.Dialect) *rig {
	t.Helper()
	r := &rig{t: t, master: reconcile.Master{DB: open(t, md)}, replica: reconcile.Replica{DB: open(t, rd), Queue: "billing"}}
	table(t, r.master.DB, md, "accounts", `CREATE TABLE accounts (id INTEGER PRIMARY KEY, name VARCHAR(40), price NUMERIC(12,2), active BOOLEAN)`)
	table(t, r.replica.DB, rd, "account_ref", `CREATE TABLE account_ref (id INTEGER PRIMARY KEY, title VARCHAR(20) NOT NULL CHECK (length(title) <= 20), price NUMERIC(12,2), active BOOLEAN)`)
	r.master.Outbox = newOutbox(t, outbox.Config{Dialect: md, Entities: []outbox.Entity{{ID: "account", Table: "accounts"}}})
	r.replica.Consumer = newConsumer(t, r.replica.DB, "account", consumer.Table{
		Name: "account_ref", Columns: map[string]string{"id": "id", "name": "title", "price": "price", "active": "active"},
	})
	return r
}

func newOutbox(t testing.TB, cfg outbox.Config) *outbox.Outbox {
	t.Helper()
	ob, err := outbox.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return ob
}

func newConsumer(t testing.TB, db *sql.DB, id string, to consumer.Table) *consumer.Consumer {
	t.Helper()
	c, err := consumer.New(db, noBroker{}, consumer.Config{Queue: "billing"})
	if err == nil {
		err = c.Table(id, to)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// save writes accounts 1 to n in the master, so that each has a revision.
func (r *rig) save(n int) {
	r.t.Helper()
	err := r.master.Outbox.InTx(r.t.Context(), r.master.DB, func(ctx context.Context, tx *outbox.Tx) error {
		for i := 1; i <= n; i++ {
			insert := fmt.Sprintf(`INSERT INTO accounts (id, name, price, active) VALUES (%d, 'n%d', %d.25, true)`, i, i, i)
			if _, err := tx.ExecContext(ctx, insert); err != nil {
				return err
			}
			if err := tx.Saved("account", i); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) dump() []byte {
	r.t.Helper()
	var out bytes.Buffer
	if _, err := reconcile.Dump(r.t.Context(), &out, r.master, "account", outbox.All, nil); err != nil {
		r.t.Fatal(err)
	}
	return out.Bytes()
}

// copied is a rig whose replica has what the master has.
func (r *rig) copied(n int) {
	r.t.Helper()
	r.save(n)
	if have, err := reconcile.Load(r.t.Context(), bytes.NewReader(r.dump()), r.replica, reconcile.LoadOptions{}); err != nil || have.Applied != int64(n) {
		r.t.Fatalf("load %+v: %v", have, err)
	}
}

func (r *rig) exec(db *sql.DB, query string) {
	r.t.Helper()
	if _, err := db.ExecContext(r.t.Context(), query); err != nil {
		r.t.Fatalf("%s: %v", query, err)
	}
}

func (r *rig) int(db *sql.DB, query string) (n int) {
	r.t.Helper()
	if err := db.QueryRowContext(r.t.Context(), query).Scan(&n); err != nil {
		r.t.Fatalf("%s: %v", query, err)
	}
	return n
}

func captured(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
