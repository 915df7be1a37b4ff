package consumer

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
)

// TestKeysThatAreEqual: keys that the database takes for equal, but are not the
// same text, are one row in a batch, too.
func TestKeysThatAreEqual(t *testing.T) {
	t.Parallel()
	eachDecided(t, func(t *testing.T, d Dialect) {
		keyType, one, other := "varchar(10) COLLATE utf8mb4_bin", "a", "a  "
		if d == SQLite {
			keyType, one, other = "text COLLATE NOCASE", "a", "A"
		}
		start := save(one, 3, "stored")
		for name, batch := range map[string][]*message.Message{
			"another spelling":        {save(other, 4, "newer"), save("b", 1, "beside")},
			"both, the newer first":   {save(other, 5, "newer"), save(one, 4, "older"), save("b", 1, "beside")},
			"both, the newer last":    {save(other, 4, "older"), save(one, 5, "newer"), save("b", 1, "beside")},
			"a DELETE of another":     {remove(other, 4), save("b", 1, "beside")},
			"a stale DELETE of other": {remove(other, 2), save(one, 4, "newer"), save("b", 1, "beside")},
		} {
			for _, stored := range []bool{true, false} {
				ends := [2][]string{}
				for i, size := range []int{1, len(batch)} {
					r := newRig(t, d, map[string]Table{"account": {Name: "account_ref", Columns: accountColumns}}, strings.Replace(accountTable, "bigint", keyType, 1))
					all := copies(batch)
					if stored {
						r.batch(t, start.Copy())
					} else {
						all = append(all[:0:0], append([]*message.Message{start.Copy()}, all...)...)
					}
					for part := range slices.Chunk(all, max(size, len(all)*min(i, 1))) {
						if res := r.batch(t, part...); len(res.failures) > 0 {
							t.Errorf("%s: %v", name, res.failures[0].err)
						}
					}
					ends[i] = dump(t, r.db, "SELECT title, cqrs_revision FROM account_ref")
				}
				if diff := cmp.Diff(ends[0], ends[1]); diff != "" {
					t.Errorf("%s, stored before: %t (-one by one +batch):\n%s", name, stored, diff)
				}
			}
		}
	})
}

func copies(messages []*message.Message) []*message.Message {
	out := make([]*message.Message, len(messages))
	for i, m := range messages {
		out[i] = m.Copy()
	}
	return out
}

// TestHistoriesInOddTables: batches come to the master's rows also in tables whose
// key is not the primary key, with triggers, numbers given by the database, and
// other unique columns. A trigger on insertions sees insertions only.
func TestHistoriesInOddTables(t *testing.T) {
	t.Parallel()
	const version = `title varchar(90) NOT NULL, note text, cqrs_revision bigint NOT NULL, cqrs_updated datetime(6) NOT NULL`
	tables := map[string][]string{
		"a key beside the primary key": {`CREATE TABLE account_ref (own bigint AUTO_INCREMENT PRIMARY KEY, id bigint NOT NULL UNIQUE, ` + version + `)`},
		"a key of digits":              {`CREATE TABLE account_ref (id decimal(10,2) PRIMARY KEY, ` + version + `)`},
		"numbered rows":                {`CREATE TABLE account_ref (id bigint AUTO_INCREMENT PRIMARY KEY, ` + version + `)`},
		"unique titles":                {`CREATE TABLE account_ref (id bigint PRIMARY KEY, ` + version + `, UNIQUE (title))`},
		"a trigger": {
			`CREATE TABLE account_ref (id bigint PRIMARY KEY, ` + version + `)`,
			`CREATE TABLE made (n int AUTO_INCREMENT PRIMARY KEY, id bigint NOT NULL)`,
			`CREATE TRIGGER making BEFORE INSERT ON account_ref FOR EACH ROW INSERT INTO made (id) VALUES (NEW.id)`,
		},
	}
	for name, ddl := range tables {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, MySQL, map[string]Table{"account": {Name: "account_ref", Columns: accountColumns}}, ddl...)
			for seed := range uint64(8) {
				r.empty(t)
				h := newHistory(seed)
				for key := range 30 {
					h.lockstepLike(key+1, 3+h.IntN(12))
				}
				r.cut(t, h.Rand, h.deliver(len(h.messages)), 100)
				want := []string{}
				for _, line := range h.rows {
					want = append(want, line)
				}
				slices.Sort(want)
				have := dump(t, r.db, "SELECT cqrs_revision, cqrs_updated, CAST(id AS SIGNED) AS id, note, title FROM account_ref")
				if diff := cmp.Diff(want, have); diff != "" {
					t.Fatalf("seed %d: the replica is not the master (-master +replica):\n%s", seed, diff)
				}
			}
			if name == "a trigger" {
				r.empty(t)
				mustExec(t, r.db, "DELETE FROM made")
				r.batch(t, save(1, 1, "x"), save(2, 1, "x"))
				r.batch(t, save(1, 2, "y"), save(2, 2, "y"), save(3, 1, "x"))
				if diff := cmp.Diff([]string{"id=1", "id=2", "id=3"}, dump(t, r.db, "SELECT id FROM made")); diff != "" {
					t.Errorf("insertions that the trigger saw (-want +have):\n%s", diff)
				}
			}
		})
	}
}

// TestRowZero: key 0 of a numbered table is a row like others once it is there.
func TestRowZero(t *testing.T) {
	t.Parallel()
	r := newRig(t, MySQL, map[string]Table{"account": {Name: "account_ref", Columns: accountColumns}}, strings.Replace(accountTable, "PRIMARY KEY", "AUTO_INCREMENT PRIMARY KEY", 1))
	mustExec(t, r.db, fmt.Sprintf("INSERT INTO account_ref (id, title, cqrs_revision, cqrs_updated) VALUES (5, 'zero', 1, '%s')", timeText(MySQL, at(1))))
	mustExec(t, r.db, "UPDATE account_ref SET id = 0")
	r.batch(t, save(0, 2, "nil"), save(1, 1, "one"))
	if diff := cmp.Diff([]string{"id=0 title=nil", "id=1 title=one"}, r.titles(t)); diff != "" {
		t.Errorf("rows (-want +have):\n%s", diff)
	}
}

// TestWithinABatch: what one message of a batch needs from another of its table is
// there, whatever the order of the keys is.
func TestWithinABatch(t *testing.T) {
	t.Parallel()
	eachDecided(t, func(t *testing.T, d Dialect) {
		r := newRig(t, d, map[string]Table{"node": {Name: "node_ref"}},
			`CREATE TABLE node_ref (id bigint PRIMARY KEY, parent bigint REFERENCES node_ref (id), name varchar(20) UNIQUE, cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL)`)
		node := func(signal string, id, parent int, name string, revision int) *message.Message {
			above := "null"
			if parent > 0 {
				above = fmt.Sprint(parent)
			}
			return lockstep(envelope(signal, "node", fmt.Sprintf(`{"id":%d,"parent":%s,"name":%q,%s}`, id, above, name, versionJSON(int64(revision), at(revision)))))
		}
		for _, step := range []struct {
			name     string
			messages []*message.Message
			want     []string
		}{
			{"a tree from its leaves", []*message.Message{node("SAVE", 1, 2, "a", 1), node("SAVE", 2, 3, "b", 1), node("SAVE", 3, 0, "c", 1)}, []string{"1<2 a", "2<3 b", "3<0 c"}},
			{"a tree from its root", []*message.Message{node("SAVE", 9, 0, "r", 1), node("SAVE", 8, 9, "s", 1), node("SAVE", 7, 8, "t", 1)}, []string{"1<2 a", "2<3 b", "3<0 c", "7<8 t", "8<9 s", "9<0 r"}},
			{"a name that changes hands", []*message.Message{node("SAVE", 3, 0, "x", 2), node("SAVE", 1, 2, "c", 2), node("SAVE", 4, 0, "a", 1)}, []string{"1<2 c", "2<3 b", "3<0 x", "4<0 a", "7<8 t", "8<9 s", "9<0 r"}},
			{"a name of a deleted row", []*message.Message{node("DELETE", 7, 0, "", 2), node("SAVE", 6, 0, "t", 1)}, []string{"1<2 c", "2<3 b", "3<0 x", "4<0 a", "6<0 t", "8<9 s", "9<0 r"}},
			{"a tree is deleted", []*message.Message{node("DELETE", 1, 0, "", 3), node("DELETE", 2, 0, "", 2), node("DELETE", 3, 0, "", 3), node("DELETE", 8, 0, "", 2)}, []string{"4<0 a", "6<0 t", "9<0 r"}},
		} {
			if res := r.batch(t, step.messages...); len(res.failures) > 0 {
				t.Errorf("%s: %v", step.name, res.failures[0].err)
			}
			var have []string
			for _, line := range dump(t, r.db, "SELECT id, coalesce(parent, 0) AS parent, name FROM node_ref") {
				have = append(have, strings.NewReplacer("id=", "", " parent=", "<", "name=", "").Replace(line))
			}
			if diff := cmp.Diff(step.want, have); diff != "" {
				t.Fatalf("%s (-want +have):\n%s", step.name, diff)
			}
		}
	})
}

// TestCulpritsOfALargeBatch: of hundreds of messages, new rows and changed ones,
// those that do not fit fail, with the errors that they have alone, and no other.
func TestCulpritsOfALargeBatch(t *testing.T) {
	t.Parallel()
	eachDecided(t, func(t *testing.T, d Dialect) {
		const keys, every = 330, 47
		ddl := strings.Replace(accountTable, "title text NOT NULL", "title varchar(10) NOT NULL CHECK (title <> 'bad'), code varchar(10) UNIQUE", 1)
		columns := map[string]string{"id": "id", "name": "title", "note": "note", "code": "code"}
		account := func(key, revision int) *message.Message {
			name, code := "good", fmt.Sprint("c", key)
			switch {
			case key%every == 0 && key%2 == 0:
				name = "bad"
			case key%every == 0:
				code = "c1"
			}
			return lockstep(envelope("SAVE", "account", fmt.Sprintf(`{"id":%d,"name":%q,"code":%q,"note":null,%s}`, key, name, code, versionJSON(int64(revision), at(revision)))))
		}
		r := newRig(t, d, map[string]Table{"account": {Name: "account_ref", Columns: columns}}, ddl)
		for revision := 1; revision <= 2; revision++ {
			var messages []*message.Message
			for key := 1; key <= keys; key++ {
				messages = append(messages, account(key, revision))
			}
			messages = append(messages, remove(1000+revision, 1))
			res := r.batch(t, messages...)
			if have := res.applied; have != keys-keys/every+1 {
				t.Errorf("revision %d: %d applied, want %d", revision, have, keys-keys/every+1)
			}
			errs := map[string]string{}
			for _, f := range res.failures {
				errs[f.in.key] = f.err.Error()
			}
			for key := every; key <= keys; key += every {
				alone := r.batch(t, account(key, revision)).failures
				if len(alone) != 1 || alone[0].err.Error() != errs[fmt.Sprint(key)] || !strings.Contains(errs[fmt.Sprint(key)], fmt.Sprintf("consumer: account/%d: ", key)) {
					t.Errorf("revision %d, key %d: have %q in the batch, and alone %v", revision, key, errs[fmt.Sprint(key)], alone)
				}
				mustExec(t, r.db, fmt.Sprintf("INSERT INTO account_ref (id, title, cqrs_revision, cqrs_updated) SELECT %d, 'x', 1, '%s' WHERE %d = 1", key, timeText(d, at(1)), revision))
			}
			if len(errs) != keys/every {
				t.Errorf("revision %d: %d failed, want %d: %v", revision, len(errs), keys/every, errs)
			}
		}
	})
}
