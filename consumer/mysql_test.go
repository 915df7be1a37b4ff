package consumer

import (
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/internal/testdb"
)

// TestValuesOnMySQL: what fits a column is stored with all its digits; what does
// not fails that message alone, and is not bent to fit.
func TestValuesOnMySQL(t *testing.T) {
	t.Parallel()
	columns := `i int, u bigint unsigned, t1 tinyint(1), n decimal(30,10), d2 decimal(6,2), f double, v varchar(5), c char(3), t text, j json,
		d date, dt datetime(6), ti time(6), y year, b4 bit(4), e enum('one','two'), s set('a','b'), bl blob, vb varbinary(8), uu uuid`
	_, dsn := testdb.MariaDB(t)
	db, err := sql.Open("mysql", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	migrate(t, db, MySQL)
	mustExec(t, db, "CREATE TABLE thing_ref (id int PRIMARY KEY, cqrs_revision bigint NOT NULL, cqrs_updated datetime(6) NOT NULL, "+columns+")")
	r := rigOn(t, db, map[string]Table{"thing": {Name: "thing_ref"}})

	tests := []struct {
		field, column, want string
		fails               bool
	}{
		{`"i":7`, "i", "7", false},
		{`"i":" 7 "`, "i", "7", false},
		{`"i":null`, "i", "null", false},
		{`"i":1.9`, "i", "", true},
		{`"i":"0x10"`, "i", "", true},
		{`"i":"x"`, "i", "", true},
		{`"i":{}`, "i", "", true},
		{`"i":2147483648`, "i", "", true},
		{`"u":18446744073709551615`, "u", "18446744073709551615", false},
		{`"u":-1`, "u", "", true},
		{`"t1":true`, "t1", "1", false},
		{`"t1":"no"`, "t1", "0", false},
		{`"n":12345678901234567890.1234567891`, "n", "12345678901234567890.1234567891", false},
		{`"n":"1e3"`, "n", "1000.0000000000", false},
		{`"n":"NaN"`, "n", "", true},
		{`"n":"x"`, "n", "", true},
		{`"d2":12345.6`, "d2", "", true},
		{`"f":0.1`, "f", "0.1", false},
		{`"f":1e400`, "f", "", true},
		{`"v":"12345"`, "v", "12345", false},
		{`"v":"123456"`, "v", "", true},
		{`"c":"xxxx"`, "c", "", true},
		{`"t":"\u00e9\/\n\"\ud83d\ude00\\"`, "t", "é/\n\"😀\\", false},
		{`"t":{"a": [1]}`, "t", `{"a": [1]}`, false},
		{`"t":7`, "t", "7", false},
		{`"j":{"b":1.50,"a":"x"}`, "j", `{"b":1.50,"a":"x"}`, false},
		{`"j":"text"`, "j", `"text"`, false},
		{`"d":"2026-01-02"`, "d", "2026-01-02", false},
		{`"d":"2026-13-02"`, "d", "", true},
		{`"dt":"2026-01-02 03:04:05.5+03:00"`, "dt", "2026-01-02 00:04:05.500000+00:00", false},
		{`"dt":"2026-01-02 03:04:05"`, "dt", "2026-01-02 03:04:05.000000+00:00", false},
		{`"dt":"yesterday"`, "dt", "", true},
		{`"ti":"03:04:05.5"`, "ti", "03:04:05.500000", false},
		{`"ti":"x"`, "ti", "", true},
		{`"y":2026`, "y", "2026", false},
		{`"y":99999`, "y", "", true},
		{`"b4":5`, "b4", "\x05", false},
		{`"b4":16`, "b4", "", true},
		{`"e":"two"`, "e", "two", false},
		{`"e":"three"`, "e", "", true},
		{`"s":"a,b"`, "s", "a,b", false},
		{`"s":"c"`, "s", "", true},
		{`"bl":"aGVsbG8="`, "bl", "hello", false},
		{`"bl":"a"`, "bl", "", true},
		{`"vb":"aGVsbG8gd29ybGQ="`, "vb", "", true},
		{`"uu":"065659D9B41E5B62BC7A4C6042311468"`, "uu", "065659d9-b41e-5b62-bc7a-4c6042311468", false},
		{`"uu":"065659"`, "uu", "", true},
	}
	var messages []*message.Message
	for key, tc := range tests {
		messages = append(messages, thing(fmt.Sprintf(`"id":%d,%s`, key, tc.field)))
	}
	failed := map[string]error{}
	for _, f := range r.batch(t, messages...).failures {
		failed[f.in.key] = f.err
	}
	for key, tc := range tests {
		r.requireValue(t, key, valueCase{tc.field, tc.column, tc.want, tc.fails}, failed[fmt.Sprint(key)])
	}
}

// TestMySQLSessionIsChecked: settings under which values would be changed silently
// are refused before the first message.
func TestMySQLSessionIsChecked(t *testing.T) {
	t.Parallel()
	_, dsn := testdb.MariaDB(t)
	db, err := sql.Open("mysql", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	migrate(t, db, MySQL)
	mustExec(t, db, `CREATE TABLE thing_ref (id varchar(20) COLLATE utf8mb4_general_ci PRIMARY KEY, ts timestamp(6) NULL, at point, cqrs_revision bigint NOT NULL, cqrs_updated datetime NOT NULL)`)
	open := strings.Replace(strings.Replace(dsn, "STRICT_TRANS_TABLES", "ALLOW_INVALID_DATES", 1), "?", "?charset=latin1&", 1)
	loose, err := sql.Open("mysql", open)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = loose.Close() }()
	c, err := New(loose, newTestBroker(), Config{Queue: "replica"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Table("thing", Table{Name: "thing_ref"}); err != nil {
		t.Fatal(err)
	}
	requireFaults(t, c.Check(t.Context()), "sql_mode is not strict", "character set is latin1", "column ts of table thing_ref is a timestamp",
		"column at is point, which has no form on the wire", "key column id takes different keys for one", "cqrs_updated is datetime: make it datetime(6)")
}

// TestMySQLUniqueColumnOfAnotherRow: a new row whose unique value another row has
// fails. It does not become a change of that row.
func TestMySQLUniqueColumnOfAnotherRow(t *testing.T) {
	t.Parallel()
	r := accountRig(t, MySQL)
	mustExec(t, r.db, "CREATE UNIQUE INDEX titles ON account_ref (title(20))")
	r.batch(t, save(1, 5, "one"))
	res := r.batch(t, save(2, 9, "one"), save(3, 1, "three"))
	if len(res.failures) != 1 || res.failures[0].in.key != "2" {
		t.Errorf("have %v, want account/2 to fail", res.failures)
	}
	if diff := cmp.Diff([]string{"cqrs_revision=1 id=3 title=three", "cqrs_revision=5 id=1 title=one"},
		dump(t, r.db, "SELECT cqrs_revision, id, title FROM account_ref")); diff != "" {
		t.Errorf("rows (-want +have):\n%s", diff)
	}
}

// TestMySQLLocks: a DELETE waits for SAVEs that are in a transaction, SAVEs do not
// wait for each other, and a SAVE that finds its key made meanwhile compares.
func TestMySQLLocks(t *testing.T) {
	t.Parallel()
	r := accountRig(t, MySQL)
	r.batch(t, save(7, 1, "seven"))
	tx, err := r.db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	m, ok := r.engine.(*mysql)
	if !ok {
		t.Fatalf("the engine is %T", r.engine)
	}
	if err := m.lock(t.Context(), tx, r.read(t, []*message.Message{save(1, 5, "five")})); err != nil {
		t.Fatal(err)
	}
	other := r.newEngine()
	defer func() { _ = other.close() }()
	run := func(e engine, messages ...*message.Message) <-chan error {
		batch, done := r.read(t, messages), make(chan error, 1)
		go func() {
			_, err := e.apply(t.Context(), batch, nil)
			done <- err
		}()
		return done
	}
	r.batch(t, save(2, 1, "two"))
	removed := run(other, remove(1, 6))
	requireWaiting(t, removed) // although there is no row yet
	if _, err := tx.ExecContext(t.Context(), fmt.Sprintf("INSERT INTO account_ref (id, title, cqrs_revision, cqrs_updated) VALUES (1, 'five', 5, '%s')",
		timeText(MySQL, at(5)))); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := <-removed; err != nil {
		t.Fatal(err)
	}
	if have, _ := r.world(t, 1); have.presence != tombstone || have.Revision != 6 {
		t.Errorf("have %+v, want the tombstone of revision 6", have)
	}
}

// TestMySQLRowMadeMeanwhile: a message whose row was made after it had looked for
// one compares with that row, alone and among others.
func TestMySQLRowMadeMeanwhile(t *testing.T) {
	t.Parallel()
	r := accountRig(t, MySQL)
	// The trigger holds the insertion up between the look and the writing, until a lock is given back.
	holder, err := r.db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Close() }()
	onHolder := func(statement string) (n int) {
		if err := holder.QueryRowContext(t.Context(), statement).Scan(&n); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
		return n
	}
	lock := "'" + strings.ToLower(rand.Text()) + "'" // it is the whole server's
	mustExec(t, r.db, "CREATE TRIGGER held BEFORE INSERT ON account_ref FOR EACH ROW SET @x = IF(NEW.title = 'late', GET_LOCK("+lock+", 60) + RELEASE_LOCK("+lock+"), 0)")
	key := 0
	for revision, want := range map[int]tally{3: {stale: 1}, 5: {duplicate: 1}, 6: {applied: 1}} {
		for _, others := range []int{0, 2} {
			key += 10
			messages := []*message.Message{save(key, revision, "late")}
			for i := range others {
				messages = append(messages, save(key+1+i, 1, "beside"))
			}
			want := want
			want.applied += others
			batch, done := r.read(t, messages), make(chan result, 1)
			onHolder("SELECT GET_LOCK(" + lock + ", 60)")
			go func() {
				res, err := r.engine.apply(t.Context(), batch, nil)
				if err != nil {
					t.Error(err)
				}
				done <- res
			}()
			eventually(t, "the insertion is held up", func() bool {
				return onHolder("SELECT count(*) FROM information_schema.processlist WHERE db = database() AND state = 'User lock'") == 1
			})
			mustExec(t, r.db, fmt.Sprintf("INSERT INTO account_ref (id, title, cqrs_revision, cqrs_updated) VALUES (%d, 'five', 5, '%s')", key, timeText(MySQL, at(5))))
			onHolder("SELECT RELEASE_LOCK(" + lock + ")")
			res := <-done
			if diff := cmp.Diff(want, res.tally, cmp.AllowUnexported(tally{})); diff != "" || len(res.failures) > 0 {
				t.Errorf("revision %d beside %d others: failures %v, counters (-want +have):\n%s", revision, others, res.failures, diff)
			}
			if have, _ := r.world(t, key); have.Revision != int64(max(revision, 5)) {
				t.Errorf("revision %d beside %d others: have %+v", revision, others, have)
			}
		}
	}
}

// TestMySQLRowChangedMeanwhile: a batch waits for another transaction that is changing
// one of its rows, and compares with what that leaves.
func TestMySQLRowChangedMeanwhile(t *testing.T) {
	t.Parallel()
	for _, others := range []int{0, 2} {
		r := accountRig(t, MySQL)
		r.batch(t, save(1, 1, "one"))
		tx, err := r.db.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.ExecContext(t.Context(), "UPDATE account_ref SET title = 'five', cqrs_revision = 5"); err != nil {
			t.Fatal(err)
		}
		messages := []*message.Message{save(1, 2, "two")}
		for i := range others {
			messages = append(messages, save(7+i, 1, "beside"))
		}
		done := r.background(t, messages...)
		requireWaiting(t, done)
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if have, title := r.world(t, 1); have.Revision != 5 || title != "five" {
			t.Errorf("beside %d others: have revision %d, %q, want 5, five", others, have.Revision, title)
		}
	}
}

// TestMySQLOtherRowsAreFree: a batch does not wait for rows that are none of its own,
// also where it has most rows of a small table.
func TestMySQLOtherRowsAreFree(t *testing.T) {
	t.Parallel()
	r := accountRig(t, MySQL)
	var made, changed []*message.Message
	for key := range 150 {
		made = append(made, save(key, 1, "old"))
		if key > 0 {
			changed = append(changed, save(key, 2, "new"))
		}
	}
	r.batch(t, made...)
	tx, err := r.db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(t.Context(), "UPDATE account_ref SET title = 'held' WHERE id = 0"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-r.background(t, changed...):
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the batch waits for a row that it has nothing to do with")
	}
}

// TestMySQLTwoConsumersOfAQueue: whatever two consumers take from one queue, each
// key ends with its newest state.
func TestMySQLTwoConsumersOfAQueue(t *testing.T) {
	t.Parallel()
	r := accountRig(t, MySQL)
	h := newHistory(1)
	for key := range 6 {
		h.lockstepLike(key, 40)
	}
	messages := h.deliver(12)
	batches := make(chan []*message.Message, len(messages))
	for len(messages) > 0 {
		n := min(len(messages), 1+h.IntN(12))
		batches <- messages[:n]
		messages = messages[n:]
	}
	close(batches)
	var group sync.WaitGroup
	for range 3 {
		e := r.newEngine()
		t.Cleanup(func() { _ = e.close() })
		group.Go(func() {
			for b := range batches {
				batch := r.read(t, b)
				for {
					res, err := e.apply(t.Context(), batch, nil)
					if err == nil && len(res.failures) > 0 {
						t.Errorf("refused: %v", res.failures[0].err)
					}
					if err == nil {
						break
					}
					if !strings.Contains(err.Error(), "1213") { // a deadlock: again, as Run does
						t.Errorf("apply: %v", err)
						return
					}
				}
			}
		})
	}
	group.Wait()
	want := []string{}
	for _, line := range h.rows {
		want = append(want, line)
	}
	have := dump(t, r.db, "SELECT cqrs_revision, cqrs_updated, id, note, title FROM account_ref")
	if diff := cmp.Diff(slices.Sorted(slices.Values(want)), have); diff != "" {
		t.Errorf("the replica is not the master (-master +replica):\n%s", diff)
	}
}

// TestMySQLLoader: a dump is loaded batch by batch, into an emptied table, or in a
// transaction of the caller's, which undoes all of it.
func TestMySQLLoader(t *testing.T) {
	t.Parallel()
	r := accountRig(t, MySQL)
	r.batch(t, save(1, 5, "one"), save(2, 1, "two"), remove(3, 7))
	l, err := r.Loader(t.Context(), "account", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if n, err := l.Clear(t.Context()); n != 2 || err != nil {
		t.Errorf("Clear: %d rows, %v, want 2", n, err)
	}
	row := func(key, revision int) json.RawMessage {
		return json.RawMessage(fmt.Sprintf(`{"id":%d,"name":"loaded","note":null,%s}`, key, versionJSON(int64(revision), at(revision))))
	}
	loaded, err := l.Save(t.Context(), []json.RawMessage{row(1, 4), row(3, 6), json.RawMessage(`{"id":4}`)})
	if err != nil || loaded.Applied != 1 || loaded.Skipped != 1 || len(loaded.Failed) != 1 {
		t.Errorf("Save: %+v, %v, want one applied, one skipped for its tombstone, one failed", loaded, err)
	}
	if diff := cmp.Diff([]string{"cqrs_revision=4 id=1 title=loaded"}, dump(t, r.db, "SELECT cqrs_revision, id, title FROM account_ref")); diff != "" {
		t.Errorf("rows (-want +have):\n%s", diff)
	}
	tx, err := r.db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	within, err := r.Loader(t.Context(), "account", tx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = within.Close() }()
	if n, err := within.Clear(t.Context()); n != 1 || err != nil {
		t.Errorf("Clear in a transaction: %d rows, %v, want 1", n, err)
	}
	if loaded, err = within.Save(t.Context(), []json.RawMessage{row(8, 1), row(3, 6)}); err != nil || loaded.Applied != 1 || loaded.Skipped != 1 {
		t.Errorf("Save in a transaction: %+v, %v, want one applied, one skipped for its tombstone", loaded, err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"id=1"}, dump(t, r.db, "SELECT id FROM account_ref")); diff != "" {
		t.Errorf("rows after the rollback (-want +have):\n%s", diff)
	}
	reader, err := r.Reader(t.Context(), "account")
	if err != nil {
		t.Fatal(err)
	}
	found, err := reader.FindRows(t.Context(), []json.RawMessage{json.RawMessage("1"), json.RawMessage("2")})
	want := map[string]Stored{"1": {Key: "1", PK: json.RawMessage("1"), Revision: 4, Data: found["1"].Data}}
	if diff := cmp.Diff(want, found); diff != "" || err != nil || !strings.Contains(string(found["1"].Data), `"name":"loaded"`) {
		t.Errorf("FindRows: %s, %v (-want +have):\n%s", found["1"].Data, err, diff)
	}
}
