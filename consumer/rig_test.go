package consumer

import (
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/migrations"
)

// rig is a consumer with its database, without a broker.
type rig struct {
	*Consumer
	replicas map[string]*replica
	engine   engine
}

// accountTable is a replica that most tests use. local is not mapped.
const accountTable = `CREATE TABLE account_ref (
	id bigint PRIMARY KEY, title text NOT NULL, note text, local text DEFAULT 'own',
	cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL)`

var accountColumns = map[string]string{"id": "id", "name": "title", "note": "note"}

// openDB returns a migrated database with the tables of ddl, in which %s stands
// for the type of a time.
func openDB(t testing.TB, d Dialect, ddl ...string) *sql.DB {
	t.Helper()
	open, timeType := testdb.Postgres, "timestamptz"
	switch d {
	case MySQL:
		open, timeType = testdb.MariaDB, "datetime(6)"
	case SQLite:
		open, timeType = testdb.SQLite, "text"
	}
	db, _ := open(t)
	migrate(t, db, d)
	for _, statement := range ddl {
		mustExec(t, db, typesOf(d, strings.ReplaceAll(statement, "%s", timeType)))
	}
	return db
}

// typesOf spells PostgreSQL's types in a definition as MySQL does.
func typesOf(d Dialect, ddl string) string {
	if d != MySQL {
		return ddl
	}
	return strings.NewReplacer("timestamptz", "datetime(6)", "jsonb", "json", "id text PRIMARY KEY", "id varchar(100) COLLATE utf8mb4_bin PRIMARY KEY").Replace(ddl)
}

// timeText is a time as a column of the dialect takes it.
func timeText(d Dialect, at time.Time) string {
	if d == MySQL {
		return fmt.Sprint(d.Time(at))
	}
	return event.FormatTime(at)
}

func migrate(t testing.TB, db *sql.DB, d Dialect) {
	t.Helper()
	if _, err := migrations.Up(t.Context(), db, d); err != nil {
		t.Fatal(err)
	}
}

func mustExec(t testing.TB, db *sql.DB, statement string) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// newRig registers tables by CQRS ID in a fresh database.
func newRig(t testing.TB, d Dialect, tables map[string]Table, ddl ...string) *rig {
	t.Helper()
	return rigOn(t, openDB(t, d, ddl...), tables)
}

func rigOn(t testing.TB, db *sql.DB, tables map[string]Table) *rig {
	t.Helper()
	c, err := New(db, newTestBroker(), Config{Queue: "replica", Now: func() time.Time { return at(1000) }})
	if err != nil {
		t.Fatal(err)
	}
	for id, table := range tables {
		if err := c.Table(id, table); err != nil {
			t.Fatal(err)
		}
	}
	replicas, faults, err := c.load(t.Context())
	if faults != nil || err != nil {
		t.Fatal(faults, err)
	}
	r := &rig{Consumer: c, replicas: replicas, engine: c.newEngine()}
	t.Cleanup(func() { _ = r.engine.close() })
	return r
}

// rigInOrder registers tables under their own names, in an order that is that of their
// statements, too.
func rigInOrder(t testing.TB, db *sql.DB, names ...string) *rig {
	t.Helper()
	c, err := New(db, newTestBroker(), Config{Queue: "replica"})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := c.Table(name, Table{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	replicas, faults, err := c.load(t.Context())
	if faults != nil || err != nil {
		t.Fatal(faults, err)
	}
	r := &rig{Consumer: c, replicas: replicas, engine: c.newEngine()}
	t.Cleanup(func() { _ = r.engine.close() })
	return r
}

func (r *rig) catalogue() *catalogue {
	c := &catalogue{}
	c.set(r.replicas)
	return c
}

func accountRig(t testing.TB, d Dialect) *rig {
	t.Helper()
	return newRig(t, d, map[string]Table{"account": {Name: "account_ref", Columns: accountColumns}}, accountTable)
}

// read decodes messages, all of which must be for one of the replicas.
func (r *rig) read(t testing.TB, messages []*message.Message) []*incoming {
	t.Helper()
	batch := make([]*incoming, len(messages))
	for i, m := range messages {
		in, err := read(r.replicas, m, at(0))
		if err != nil {
			t.Fatalf("%s: %v", m.Payload, err)
		}
		batch[i] = in
	}
	return batch
}

// batch applies messages as one batch.
func (r *rig) batch(t testing.TB, messages ...*message.Message) result {
	t.Helper()
	batch := r.read(t, messages)
	res, err := r.engine.apply(t.Context(), batch, r.engine.plan(batch))
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// save makes a SAVE of account key with a name, from a Lockstep master.
func save(key any, revision int, name string) *message.Message {
	return lockstep(envelope("SAVE", "account", fmt.Sprintf(`{"id":%s,"name":%q,"note":null,%s}`, jsonKey(key), name, versionJSON(int64(revision), at(revision)))))
}

func remove(key any, revision int) *message.Message {
	return lockstep(envelope("DELETE", "account", fmt.Sprintf(`{"id":%s,%s}`, jsonKey(key), versionJSON(int64(revision), at(revision)))))
}

func jsonKey(key any) string {
	if s, ok := key.(string); ok {
		return string(event.AppendString(nil, s))
	}
	return fmt.Sprint(key)
}

func versionJSON(revision int64, updated time.Time) string {
	return fmt.Sprintf(`"cqrs_revision":%d,"cqrs_updated":%q`, revision, event.FormatTime(updated))
}

func envelope(signal, entity, data string) string {
	return fmt.Sprintf(`{"signal_type":%q,"cqrs_id":%q,"instance_data":%s,"previous_data":null,"instance_pk":1,`+
		`"correlation_id":null,"retries":0,"expires":null,"meta":{}}`, signal, entity, data)
}

// django and lockstep make messages of a body as from masters of either kind.
func django(body string) *message.Message { return message.NewMessage("", []byte(body)) }

func lockstep(body string) *message.Message {
	m := django(body)
	m.Metadata.Set(event.HeaderEventID, "0192f0c1-0000-7000-8000-000000000001")
	return m
}

// dump returns all rows of a table, columns by name, as sorted text; times as
// they are on the wire.
func dump(t testing.TB, db *sql.DB, query string) []string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer func() { _ = rows.Close() }()
	names, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	lines := []string{}
	for rows.Next() {
		values, into := make([]any, len(names)), make([]any, len(names))
		for i := range into {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for i, v := range values {
			fmt.Fprintf(&b, "%s=%s ", names[i], shown(v))
		}
		lines = append(lines, strings.TrimSpace(b.String()))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return lines
}

func shown(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case time.Time:
		return event.FormatTime(v)
	case []byte: // MySQL's times stand there without an offset
		if at, err := time.Parse("2006-01-02 15:04:05.000000", string(v)); err == nil {
			return event.FormatTime(at)
		}
		return string(v)
	}
	return fmt.Sprint(v)
}

// stored returns all that account_ref and its tombstones hold.
func (r *rig) stored(t testing.TB) []string {
	t.Helper()
	return append(dump(t, r.db, "SELECT * FROM account_ref"),
		dump(t, r.db, `SELECT replica, "key", revision, updated FROM replica_tombstones`)...)
}

// eachDialect runs a test on each database.
func eachDialect(t *testing.T, test func(t *testing.T, d Dialect)) {
	t.Helper()
	for _, d := range []Dialect{Postgres, MySQL, SQLite} {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			test(t, d)
		})
	}
}
