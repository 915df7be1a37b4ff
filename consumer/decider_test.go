package consumer

import (
	"context"
	"database/sql/driver"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/internal/testdb"
)

// eachDecided runs a test on the databases where batches are decided in memory.
func eachDecided(t *testing.T, test func(t *testing.T, d Dialect)) {
	t.Helper()
	for _, d := range []Dialect{MySQL, SQLite} {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			test(t, d)
		})
	}
}

// counts are the statements that were run, and those that are prepared and not closed.
type counts struct {
	atomic.Int64
	open atomic.Int64
}

// countedConn counts the statements that are run through it.
type countedConn struct {
	testdb.Conn
	n *counts
}

func (c countedConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	stmt, err := c.Conn.Conn.(driver.ConnPrepareContext).PrepareContext(ctx, query)
	if err == nil {
		c.n.open.Add(1)
	}
	return countedStmt{stmt, c.n}, err
}

type countedStmt struct {
	driver.Stmt
	n *counts
}

func (s countedStmt) Close() error {
	s.n.open.Add(-1)
	return s.Stmt.Close()
}

func (s countedStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	s.n.Add(1)
	return s.Stmt.(driver.StmtExecContext).ExecContext(ctx, args)
}

func (s countedStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	s.n.Add(1)
	return s.Stmt.(driver.StmtQueryContext).QueryContext(ctx, args)
}

// countedRig is newRig with a count of the statements that the engine runs.
func countedRig(t *testing.T, d Dialect, ids []string, ddl ...string) (*rig, *counts) {
	t.Helper()
	open, timeType := testdb.MariaDB, "datetime(6)"
	switch d {
	case Postgres:
		open, timeType = testdb.Postgres, "timestamptz"
	case SQLite:
		open, timeType = testdb.SQLite, "text"
	}
	plain, dsn := open(t)
	migrate(t, plain, d)
	for _, statement := range ddl {
		mustExec(t, plain, strings.ReplaceAll(statement, "%s", timeType))
	}
	n := &counts{}
	db := testdb.Wrapped(t, plain, dsn, func(conn testdb.Conn) driver.Conn { return countedConn{conn, n} })
	c, err := New(db, newTestBroker(), Config{Queue: "replica", Dialect: d})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		table := Table{Name: id + "_ref"}
		if id == "account" {
			table.Columns = accountColumns
		}
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
	return r, n
}

// TestBatchTakesFewStatements: how many statements a batch takes depends on its
// tables and kinds of messages and hardly on how many messages there are.
func TestBatchTakesFewStatements(t *testing.T) {
	t.Parallel()
	eachDecided(t, func(t *testing.T, d Dialect) {
		r, n := countedRig(t, d, []string{"account"}, accountTable)
		const keys = 400
		for _, kind := range []struct {
			name    string
			message func(key int) *message.Message
			most    int64
		}{
			// keys/50 statements of each kind on SQLite, half as many on MySQL, and a few more
			{"new rows", func(key int) *message.Message { return save(key, 1, "x") }, 3 * keys / 50},
			{"changed rows", func(key int) *message.Message { return save(key, 2, "y") }, 2 * keys / 50},
			{"stale", func(key int) *message.Message { return save(key, 1, "z") }, keys / 50},
			{"deleted rows", func(key int) *message.Message { return remove(key, 3) }, 3 * keys / 50},
			{"rows made anew", func(key int) *message.Message { return save(key, 4, "z") }, 4 * keys / 50},
		} {
			messages := make([]*message.Message, keys)
			for i := range messages {
				messages[i] = kind.message(i)
			}
			r.batch(t, messages[0].Copy()) // what is done once
			n.Store(0)
			r.batch(t, messages...)
			most := kind.most * map[Dialect]int64{MySQL: 1, SQLite: 3}[d] // with its savepoint's two
			if have := n.Load(); have > most+4 {
				t.Errorf("%s: %d statements for %d messages, want at most %d", kind.name, have, keys, most+4)
			}
		}
	})
}

// TestCulpritsTakeFewStatements: a message that does not fit costs its batch some
// statements, and not one for each of its neighbours.
func TestCulpritsTakeFewStatements(t *testing.T) {
	t.Parallel()
	eachDecided(t, func(t *testing.T, d Dialect) {
		const keys, every = 500, 100
		r, n := countedRig(t, d, []string{"account"}, strings.Replace(accountTable, "title text NOT NULL", "title varchar(10) NOT NULL UNIQUE", 1))
		apply := func(revision int, taken func(key int) bool) (statements int64, failures int) {
			var messages []*message.Message
			for key := range keys {
				name := fmt.Sprint("t", key)
				if taken(key) {
					name = "t1"
				}
				messages = append(messages, save(key, revision, name))
			}
			n.Store(0)
			failures = len(r.batch(t, messages...).failures)
			return n.Load(), failures
		}
		none := func(int) bool { return false }
		apply(1, none)
		plain, _ := apply(2, none)
		mixed, failures := apply(3, func(key int) bool { return key%every == every/2 })
		if failures != keys/every {
			t.Fatalf("%d failed, want %d", failures, keys/every)
		}
		most := map[Dialect]int64{MySQL: 25, SQLite: 60}[d]
		if have := (mixed - plain) / int64(failures); have > most {
			t.Errorf("%d statements, and %d with %d messages that do not fit: %d for each, want at most %d", plain, mixed, failures, have, most)
		}
		t.Logf("%d statements, and %d with %d messages that do not fit", plain, mixed, failures)
	})
}

// TestLoadLeavesNoStatements: a load of many batches in one transaction keeps no more
// statements for those with messages that do not fit than for others.
func TestLoadLeavesNoStatements(t *testing.T) {
	t.Parallel()
	r, n := countedRig(t, SQLite, []string{"account"}, strings.Replace(accountTable, "title text NOT NULL", "title varchar(10) NOT NULL UNIQUE", 1))
	tx, err := r.db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	before := int64(0)
	for round := range 5 {
		var batch []*message.Message
		for key := range 60 {
			batch = append(batch, save(100*round+key, 1, fmt.Sprint("t", max(100*round+key, 1))))
		}
		batch = append(batch, save(9999, 1, "t1"))
		res, err := r.engine.within(t.Context(), tx, r.read(t, batch))
		if err != nil || len(res.failures) == 0 {
			t.Fatalf("have %+v and %v, want a failure", res, err)
		}
		if open := n.open.Load(); round > 1 && open > before {
			t.Errorf("round %d: %d statements are prepared, and %d before", round, open, before)
		}
		before = n.open.Load()
	}
}

// TestFamiliesTakeFewStatements: rows that refer to each other are written in an
// order in which none has to be tried again: a row after the one above it, and
// deletions in the opposite order of the tables.
func TestFamiliesTakeFewStatements(t *testing.T) {
	t.Parallel()
	eachDecided(t, func(t *testing.T, d Dialect) {
		r, n := countedRig(t, d, []string{"node", "leaf"},
			`CREATE TABLE node_ref (id bigint PRIMARY KEY, parent bigint, cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL, FOREIGN KEY (parent) REFERENCES node_ref (id))`,
			`CREATE TABLE leaf_ref (id bigint PRIMARY KEY, node bigint, cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL, FOREIGN KEY (node) REFERENCES node_ref (id))`)
		const most, height = 40, 60
		var made, gone []*message.Message
		for i := range height {
			parent := fmt.Sprint(1000 - i + 1)
			if i == 0 {
				parent = "null"
			}
			made = append(made,
				lockstep(envelope("SAVE", "node", fmt.Sprintf(`{"id":%d,"parent":%s,%s}`, 1000-i, parent, versionJSON(1, at(1))))),
				lockstep(envelope("SAVE", "leaf", fmt.Sprintf(`{"id":%d,"node":%d,%s}`, i, 1000-i, versionJSON(1, at(1))))))
			gone = append(gone, lockstep(envelope("DELETE", "leaf", fmt.Sprintf(`{"id":%d,%s}`, i, versionJSON(2, at(2))))))
		}
		gone = append(gone, lockstep(envelope("DELETE", "node", fmt.Sprintf(`{"id":%d,%s}`, 1000-height+1, versionJSON(2, at(2))))))
		for name, messages := range map[string][]*message.Message{"made": made, "gone": gone} {
			if name == "gone" {
				r.batch(t, copies(made)...)
			}
			n.Store(0)
			res := r.batch(t, messages...)
			if have := n.Load(); have > most || len(res.failures) > 0 || res.isolated {
				t.Errorf("%s: %d statements, isolated %t, failed %v, want at most %d statements and no failure", name, have, res.isolated, res.failures, most)
			}
		}
	})
}

// TestPrimaryKeyOfAnotherRow: where the key is not the primary key, a message that
// gives its row another one's primary key fails, and changes neither.
func TestPrimaryKeyOfAnotherRow(t *testing.T) {
	t.Parallel()
	eachDecided(t, func(t *testing.T, d Dialect) {
		r := newRig(t, d, map[string]Table{"account": {Name: "account_ref"}},
			`CREATE TABLE account_ref (own bigint PRIMARY KEY, id bigint NOT NULL UNIQUE, name varchar(10), cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL)`)
		account := func(key, own, revision int, name string) *message.Message {
			return lockstep(envelope("SAVE", "account", fmt.Sprintf(`{"id":%d,"own":%d,"name":%q,%s}`, key, own, name, versionJSON(int64(revision), at(revision)))))
		}
		r.batch(t, account(1, 10, 1, "one"), account(2, 20, 1, "two"))
		res := r.batch(t, account(2, 10, 2, "zwei"), account(3, 30, 1, "three"), account(1, 10, 2, "eins"))
		if len(res.failures) != 1 || res.failures[0].in.key != "2" {
			t.Errorf("have %v, want account/2 to fail", res.failures)
		}
		want := []string{"id=1 own=10 name=eins", "id=2 own=20 name=two", "id=3 own=30 name=three"}
		if diff := cmp.Diff(want, dump(t, r.db, "SELECT id, own, name FROM account_ref")); diff != "" {
			t.Errorf("rows (-want +have):\n%s", diff)
		}
	})
}

// TestMadeAnewInABatch: a row that is deleted and made anew within a batch is a new
// one: what its message does not bring has its default.
func TestMadeAnewInABatch(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		r := accountRig(t, d)
		r.batch(t, lockstep(envelope("SAVE", "account", `{"id":1,"name":"old","note":"old",`+versionJSON(1, at(1))+`}`)))
		mustExec(t, r.db, "UPDATE account_ref SET local = 'old'")
		r.batch(t, save(2, 1, "beside"), remove(1, 2), lockstep(envelope("SAVE", "account", `{"id":1,"name":"new",`+versionJSON(3, at(3))+`}`)))
		if diff := cmp.Diff([]string{"title=new note=null local=own"}, dump(t, r.db, "SELECT title, note, local FROM account_ref WHERE id = 1")); diff != "" {
			t.Errorf("the row (-want +have):\n%s", diff)
		}
		if have, _ := r.world(t, 1); have.presence != row || have.Revision != 3 {
			t.Errorf("have %+v, want the row of revision 3", have)
		}
	})
}

// TestStatementParts: a statement has no more rows, values and bytes than it may.
func TestStatementParts(t *testing.T) {
	t.Parallel()
	d := &decider{rows: 100}
	keys := make([]*subject, 1000)
	for i := range keys {
		keys[i] = &subject{messages: []*bound{{in: &incoming{key: "1"}}}, image: &bound{size: 100}}
	}
	keys[7].image.size = 2 * maxStatementBytes
	for _, tc := range []struct{ values, size, most int }{{10, 100, 100}, {1000, 100, 30}, {40_000, 100, 1}, {10, maxStatementBytes / 4, 3}} {
		total := 0
		for i, k := range keys {
			if i != 7 {
				k.image.size = tc.size
			}
		}
		for part := range d.parts(keys, tc.values) {
			total += len(part)
			if len(part) > tc.most || len(part) > 1 && slices.Contains(part, keys[7]) {
				t.Errorf("%+v: a part of %d", tc, len(part))
			}
		}
		if total != len(keys) {
			t.Errorf("%+v: %d keys in all, want %d", tc, total, len(keys))
		}
	}
}

// TestLargeRows: rows of some megabytes are written, alone and among others.
func TestLargeRows(t *testing.T) {
	t.Parallel()
	eachDecided(t, func(t *testing.T, d Dialect) {
		r := newRig(t, d, map[string]Table{"account": {Name: "account_ref", Columns: accountColumns}}, strings.Replace(accountTable, "title text", "title "+map[Dialect]string{MySQL: "longtext", SQLite: "text"}[d], 1))
		for revision := 1; revision <= 2; revision++ {
			var messages []*message.Message
			for key := range 12 {
				messages = append(messages, save(key, revision, strings.Repeat("x", map[bool]int{true: 3 << 20, false: 300 << 10}[key == 5])))
			}
			if res := r.batch(t, messages...); len(res.failures) > 0 || res.applied != 12 {
				t.Errorf("revision %d: %d applied, failed %v", revision, res.applied, res.failures)
			}
		}
		want := []string{fmt.Sprintf("n=12 sum=%d", 3<<20+11*300<<10)}
		if diff := cmp.Diff(want, dump(t, r.db, "SELECT count(*) AS n, sum(length(title)) AS sum FROM account_ref WHERE cqrs_revision = 2")); diff != "" {
			t.Errorf("rows (-want +have):\n%s", diff)
		}
	})
}
