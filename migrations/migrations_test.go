package migrations_test

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/lib/pq"
	"github.com/pressly/goose/v3"

	"github.com/lockstep-go/lockstep/internal/dialect"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/migrations"
)

// ours are the tables that a migrated database has for us.
var ours = []string{"outbox", "outbox_dead", "outbox_failures", "outbox_leases", "outbox_relays", "outbox_shards", "outbox_tombstones", "replica_inbox", "replica_tombstones"}

const versionTable = "lockstep_db_version"

// patience is for what takes milliseconds on an idle machine.
const patience = 20 * time.Second

var allNames = []string{"00001_master", "00002_replica", "00003_replica_retention"}

// onEach runs a test on a fresh database of each kind.
func onEach(t *testing.T, test func(t *testing.T, db *sql.DB, d migrations.Dialect)) {
	t.Helper()
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		db, _ := testdb.Postgres(t)
		test(t, db, migrations.Postgres)
	})
	t.Run("mysql", func(t *testing.T) {
		t.Parallel()
		db, _ := testdb.MariaDB(t)
		test(t, db, migrations.MySQL)
	})
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		db, _ := testdb.SQLite(t)
		test(t, db, migrations.SQLite)
	})
}

// tables lists the tables of a test's database.
func tables(t *testing.T, db *sql.DB, d migrations.Dialect) (names []string) {
	t.Helper()
	query := `SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'`
	switch d {
	case migrations.MySQL:
		query = `SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()`
	case migrations.SQLite:
		query = `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'`
	}
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

func exec(t *testing.T, db *sql.DB, statement string) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func queryText(t *testing.T, db *sql.DB, query string) (text string) {
	t.Helper()
	if err := db.QueryRowContext(t.Context(), query).Scan(&text); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return text
}

func names(list []migrations.Applied) (all []string) {
	for _, m := range list {
		all = append(all, m.Name)
	}
	return all
}

func up(t *testing.T, db *sql.DB, d migrations.Dialect) []string {
	t.Helper()
	applied, err := migrations.Up(t.Context(), db, d)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range applied {
		if m.At.IsZero() || m.Version == 0 {
			t.Errorf("applied without version or time: %+v", m)
		}
	}
	return names(applied)
}

func equal(t *testing.T, what string, want, have any) {
	t.Helper()
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("%s (-want +have):\n%s", what, diff)
	}
}

func with(d migrations.Dialect, more ...string) []string {
	all := slices.Concat(ours, more)
	if d == migrations.MySQL { // which has no other lock on a name
		all = append(all, "replica_locks")
	}
	slices.Sort(all)
	return all
}

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

// A lock that somebody holds on another schema is no reason to wait.
func TestUpBesideAnotherSchema(t *testing.T) {
	t.Parallel()
	db, _ := testdb.Postgres(t)
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	for _, lock := range []string{`SELECT pg_advisory_lock(4097083626)`, `SELECT pg_advisory_lock(1818979687, hashtext('elsewhere'))`} { // goose's, ours
		if _, err := conn.ExecContext(t.Context(), lock); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, "Up", allNames, up(t, db, migrations.Postgres))
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
