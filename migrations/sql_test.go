package migrations_test

import (
	"context"
	"database/sql"
	"strings"
	"testing"

	"github.com/lib/pq"

	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/migrations"
)

// Rows that were there before get revision 0 and a time, and new ones too.
func TestTableSQLOnRows(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *sql.DB, d migrations.Dialect) {
		name := d.Quote("the accounts")
		exec(t, db, `CREATE TABLE `+name+` (id integer PRIMARY KEY, name text NOT NULL)`)
		exec(t, db, `INSERT INTO `+name+` VALUES (1, 'Ada'), (2, 'Grace')`)
		lines, err := migrations.TableSQL(d, "the accounts")
		if err != nil {
			t.Fatal(err)
		}
		exec(t, db, lines)
		exec(t, db, `INSERT INTO `+name+` (id, name) VALUES (3, 'Joan')`)
		equal(t, "rows of revision 0 with a time", "3",
			queryText(t, db, `SELECT count(*) FROM `+name+` WHERE cqrs_revision = 0 AND cqrs_updated IS NOT NULL AND name <> ''`))
		table, err := d.LoadTable(t.Context(), db, "the accounts")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"cqrs_revision", "cqrs_updated"} {
			if c := table.Column(name); c == nil || !c.NotNull || !c.HasDefault {
				t.Errorf("column %s: %+v, want NOT NULL with a default", name, c)
			}
		}
	})
	t.Run("in a schema", func(t *testing.T) {
		t.Parallel()
		db, _ := testdb.Postgres(t)
		exec(t, db, `CREATE TABLE accounts (id integer PRIMARY KEY)`)
		lines, err := migrations.TableSQL(migrations.Postgres, queryText(t, db, `SELECT current_schema()`)+".accounts")
		if err != nil {
			t.Fatal(err)
		}
		exec(t, db, lines)
		exec(t, db, `SELECT cqrs_revision, cqrs_updated FROM accounts`)
	})
}

// A team with a migration tool of its own runs the text as it is. What comes out
// is what Up makes.
func TestSQL(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *sql.DB, d migrations.Dialect) {
		text, err := migrations.SQL(d)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(text, "+goose") || strings.Contains(text, "DROP ") {
			t.Errorf("the text holds more than the way up:\n%s", text)
		}
		exec(t, db, text)
		equal(t, "tables", with(d, versionTable), tables(t, db, d))
		list, err := migrations.Status(t.Context(), db, d)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range list {
			if m.At.IsZero() {
				t.Errorf("%s is pending after its SQL was run", m.Name)
			}
		}
		equal(t, "listed", allNames, names(list))
		equal(t, "left to do", 0, len(up(t, db, d)))
		if _, err := migrations.Down(t.Context(), db, d); err != nil {
			t.Fatal(err)
		}
		equal(t, "done again after a step back", allNames[2:], up(t, db, d))
		var byUp *sql.DB
		switch d {
		case migrations.Postgres:
			byUp, _ = testdb.Postgres(t)
		case migrations.MySQL:
			byUp, _ = testdb.MariaDB(t)
		default:
			byUp, _ = testdb.SQLite(t)
		}
		up(t, byUp, d)
		for _, name := range ours {
			want, err := d.LoadTable(t.Context(), byUp, name)
			if err != nil {
				t.Fatal(err)
			}
			have, err := d.LoadTable(t.Context(), db, name)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "table "+name, want, have)
		}
	})
	t.Run("notifies", func(t *testing.T) {
		t.Parallel()
		db, dsn := testdb.Postgres(t)
		text, err := migrations.SQL(migrations.Postgres)
		if err != nil {
			t.Fatal(err)
		}
		exec(t, db, text)
		notifies(t, db, dsn)
	})
}

// notifies checks the one thing in the migrations that is more than a table: the
// trigger tells a sleeping relay of a new row, also when the writer's search path
// does not lead to the lease, and does not tell one that works.
func notifies(t *testing.T, db *sql.DB, dsn string) {
	t.Helper()
	schema := queryText(t, db, `SELECT current_schema()`)
	exec(t, db, `INSERT INTO outbox_leases (shard, holder, term, expires_at, asleep) VALUES (0, 'test', 1, clock_timestamp(), true)`)
	listener := pq.NewListener(dsn, 0, 0, nil)
	defer func() { _ = listener.Close() }()
	if err := listener.Listen("lockstep_outbox"); err != nil {
		t.Fatal(err)
	}
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.ExecContext(t.Context(), `SET search_path = pg_catalog`); err != nil {
		t.Fatal(err)
	}
	run := func(statement string) {
		t.Helper()
		if _, err := conn.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	insert := `INSERT INTO "` + schema + `".outbox (topic, payload) VALUES ('t', 'p')`
	run(`UPDATE "` + schema + `".outbox_leases SET asleep = false`)
	run(insert) // to a relay that works it says nothing, for that costs every writer a lock of the server
	run(`SELECT pg_notify('lockstep_outbox', '` + schema + ` is awake')`)
	run(`UPDATE "` + schema + `".outbox_leases SET asleep = true`)
	run(insert)
	awake := true
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for { // others notify on this server, too
		select {
		case n := <-listener.NotificationChannel():
			switch {
			case n == nil:
			case n.Extra == schema+" is awake":
				awake = false
			case n.Extra == schema && awake:
				t.Fatal("a writer notified a relay that does not sleep")
			case n.Extra == schema:
				return
			}
		case <-ctx.Done():
			t.Fatalf("no notification within %v", patience)
		}
	}
}
