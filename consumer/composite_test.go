package consumer

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
)

func seatRig(t *testing.T, d Dialect) *rig {
	t.Helper()
	return newRig(t, d, map[string]Table{"seat": {Name: "seat_ref", Keys: []string{"row", "number"}, Columns: map[string]string{"line": "row", "number": "number", "holder": "holder"}}},
		`CREATE TABLE seat_ref (number bigint NOT NULL, holder varchar(20) NOT NULL, "row" varchar(20)`+map[bool]string{true: " COLLATE utf8mb4_bin"}[d == MySQL]+` NOT NULL,
			cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL, PRIMARY KEY ("row", number))`)
}

func seat(signal, row, number, holder string, revision int) *message.Message {
	return lockstep(envelope(signal, "seat", fmt.Sprintf(`{"id":"[]","line":%s,"number":%s,"holder":%q,%s}`, row, number, holder, versionJSON(int64(revision), at(revision)))))
}

// TestCompositeKeys: rows of a composite key are told apart by all its columns,
// and follow the decision table as others do, as one batch and one by one.
func TestCompositeKeys(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		messages := []*message.Message{
			seat("SAVE", `"a"`, "1", "one", 1), seat("SAVE", `"a"`, "2", "two", 1), seat("SAVE", `"b"`, "1", "three", 1),
			seat("SAVE", `"a"`, `"2"`, "zwei", 2), seat("SAVE", `"a"`, "2", "old", 1),
			seat("DELETE", `"b"`, "1", "", 2), seat("SAVE", `"b"`, "1", "late", 1),
			seat("SAVE", `"x\",\"1"`, "1", "quoted", 1), seat("SAVE", `"é\\"`, "1", "accent", 1),
			seat("DELETE", `"c"`, "9", "", 5), seat("SAVE", `"c"`, "9", "late", 4), seat("DELETE", `"d"`, "9", "", 5), seat("SAVE", `"d"`, "9", "anew", 6),
			seat("SYNC", `"a"`, "1", "repaired", 1),
		}
		want := []string{
			`row=a number=1 holder=repaired cqrs_revision=1`, `row=a number=2 holder=zwei cqrs_revision=2`, `row=d number=9 holder=anew cqrs_revision=6`,
			`row=x","1 number=1 holder=quoted cqrs_revision=1`, `row=é\ number=1 holder=accent cqrs_revision=1`,
		}
		tombs := []string{`key=["b","1"] revision=2`, `key=["c","9"] revision=5`}
		for _, size := range []int{1, 4, len(messages)} {
			for again := range 2 { // repeated, nothing changes
				r := seatRig(t, d)
				for range again + 1 {
					for part := range slices.Chunk(messages, size) {
						if res := r.batch(t, part...); len(res.failures) > 0 {
							t.Fatal(res.failures[0].err)
						}
					}
				}
				if diff := cmp.Diff(want, dump(t, r.db, `SELECT "row", number, holder, cqrs_revision FROM seat_ref`)); diff != "" {
					t.Errorf("batches of %d (-want +have):\n%s", size, diff)
				}
				if diff := cmp.Diff(tombs, dump(t, r.db, `SELECT "key", revision FROM replica_tombstones`)); diff != "" {
					t.Errorf("batches of %d: tombstones (-want +have):\n%s", size, diff)
				}
			}
		}
	})
}

// TestKeysInAnotherOrder: a DELETE finds its row, and its tombstone the late
// events, also where the key is declared in another order than the primary key's.
func TestKeysInAnotherOrder(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		r := seatRig(t, d)
		r = rigOn(t, r.db, map[string]Table{"seat": {
			Name: "seat_ref", Keys: []string{"number", "row"}, Columns: map[string]string{"line": "row", "number": "number", "holder": "holder"},
		}})
		for _, m := range []*message.Message{
			seat("SAVE", `"a"`, "1", "one", 1), seat("SAVE", `"b"`, "1", "two", 1), seat("SAVE", `"a"`, "1", "uno", 2),
			seat("DELETE", `"b"`, "1", "", 2), seat("SAVE", `"b"`, "1", "late", 1),
		} {
			if res := r.batch(t, m); len(res.failures) > 0 {
				t.Fatal(res.failures[0].err)
			}
		}
		want := []string{"row=a number=1 holder=uno cqrs_revision=2"}
		if diff := cmp.Diff(want, dump(t, r.db, `SELECT "row", number, holder, cqrs_revision FROM seat_ref`)); diff != "" {
			t.Errorf("rows (-want +have):\n%s", diff)
		}
	})
}

// TestCompositeMisfits: a message without a part of its key, or that violates a
// constraint, fails alone.
func TestCompositeMisfits(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		r := seatRig(t, d)
		mustExec(t, r.db, "CREATE UNIQUE INDEX holders ON seat_ref (holder)")
		res := r.batch(t, seat("SAVE", `"a"`, "1", "one", 1), seat("SAVE", `"a"`, "2", "one", 1), seat("SAVE", `"b"`, "1", "two", 1))
		if len(res.failures) != 1 || res.failures[0].in.key != `["a","2"]` {
			t.Errorf("have %v, want a/2 to fail", res.failures)
		}
		for _, signal := range []string{"SAVE", "DELETE"} {
			m := seat(signal, `"a"`, "null", "x", 2)
			_, err := read(r.replicas, m, at(0))
			if data := (*DataError)(nil); !errors.As(err, &data) || !strings.Contains(err.Error(), `field "number"`) {
				t.Errorf("%s: have %v, want the field's name", signal, err)
			}
		}
	})
}

// TestCompositeCheck: what is wrong with a composite key is said before a start.
func TestCompositeCheck(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		db := openDB(t, d, `CREATE TABLE seat_ref (a bigint, b bigint, c bigint, cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL, PRIMARY KEY (a, b))`)
		for want, table := range map[string]Table{
			"":                         {Keys: []string{"b", "a"}},
			"primary key is (a, b)":    {Keys: []string{"a", "c"}},
			"there is no key column x": {Keys: []string{"a", "x"}},
			"both set":                 {Key: "a", Keys: []string{"b", "a"}},
			"twice":                    {Keys: []string{"a", "a"}},
			"declare all columns of the primary key: key: [a, b]": {Key: "a"},
		} {
			table.Name = "seat_ref"
			c, err := New(db, newTestBroker(), Config{Queue: "replica"})
			if err != nil {
				t.Fatal(err)
			}
			err = c.Table("seat", table)
			if err == nil {
				err = c.Check(t.Context())
			}
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("%+v: have %v, want %q", table.Keys, err, want)
			}
		}
	})
}
