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

// TestMissingFields: a nullable column keeps its value, a column that may not be
// null fails the message even though it has a default, what is not mapped stays.
func TestMissingFields(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		r := newRig(t, d, map[string]Table{"account": {Name: "account_ref", Columns: map[string]string{"pk": "id", "name": "title", "note": "note"}}},
			strings.Replace(accountTable, "title text NOT NULL", "title text NOT NULL DEFAULT 'none'", 1))
		msg := func(revision int, fields string) *message.Message {
			return lockstep(envelope("SAVE", "account", "{"+fields+","+versionJSON(int64(revision), at(revision))+"}"))
		}
		r.batch(t, msg(1, `"pk":1,"name":"one","note":"first"`))
		mustExec(t, r.db, "UPDATE account_ref SET local = 'changed here'")
		r.batch(t, msg(2, `"pk":1,"name":"two"`), msg(3, `"pk":1,"name":"three","extra":{}`), msg(1, `"pk":2,"name":"new"`))
		want := []string{
			"id=1 local=changed here note=first title=three",
			"id=2 local=own note=null title=new",
		}
		if diff := cmp.Diff(want, dump(t, r.db, "SELECT id, local, note, title FROM account_ref")); diff != "" {
			t.Errorf("rows (-want +have):\n%s", diff)
		}
		for _, tc := range []struct{ fields, want string }{
			{`"pk":1,"note":"x",` + versionJSON(4, at(4)), `consumer: account/1: field "name" is missing, and column title may not be null`},
			{`"pk":1,"name":null,` + versionJSON(4, at(4)), "consumer: account/1: column title: value null: the column may not be null"},
			{`"name":"x",` + versionJSON(4, at(4)), `consumer: account/1: the key (field "pk") is missing`},
			{`"pk":null,"name":"x",` + versionJSON(4, at(4)), `consumer: account/1: the key (field "pk") is missing`},
			{`"pk":1,"name":"x","cqrs_revision":4`, "consumer: account/1: event: cqrs_revision and cqrs_updated must both be in the data"},
			{`"pk":1,"name":"x","cqrs_revision":"x","cqrs_updated":"2026-01-01"`, `consumer: account/1: event: cqrs_revision is "x", not a whole number`},
		} {
			_, err := read(r.replicas, lockstep(envelope("SAVE", "account", "{"+tc.fields+"}")), at(0))
			var data *DataError
			if !errors.As(err, &data) || err.Error() != tc.want {
				t.Errorf("%s:\nhave %v\nwant %s", tc.fields, err, tc.want)
			}
		}
		for _, data := range []string{"null", "[]", `"x"`, "7"} {
			_, err := read(r.replicas, lockstep(envelope("SAVE", "account", data)), at(0))
			if err == nil || err.Error() != "consumer: account/1: instance_data is not an object" {
				t.Errorf("%s: have %v", data, err)
			}
		}
	})
}

// TestAnySetOfFields: messages with ever other fields do not fill the memory with
// statements.
func TestAnySetOfFields(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		const columns = 9
		ddl := "CREATE TABLE thing_ref (id bigint PRIMARY KEY, cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL"
		for i := range columns {
			ddl += fmt.Sprintf(", c%d integer", i)
		}
		r := newRig(t, d, map[string]Table{"thing": {Name: "thing_ref"}}, ddl+")")
		var messages []*message.Message
		for set := range 1 << columns {
			fields := fmt.Sprintf(`"id":%d`, set)
			for i := range columns {
				if set>>i&1 == 1 {
					fields += fmt.Sprintf(`,"c%d":1`, i)
				}
			}
			messages = append(messages, thing(fields))
		}
		for part := range slices.Chunk(messages, 40) {
			r.batch(t, part...)
		}
		have := dump(t, r.db, "SELECT count(*) AS n, sum(coalesce(c0,0)+2*coalesce(c1,0)+256*coalesce(c8,0)) AS s FROM thing_ref")
		if diff := cmp.Diff([]string{"n=512 s=66304"}, have); diff != "" {
			t.Errorf("rows (-want +have):\n%s", diff)
		}
		var cache *statements
		switch e := r.engine.(type) {
		case *postgres:
			cache = e.statements
		case *mysql:
			cache = e.statements
		case *sqlite:
			cache = e.statements
		}
		if n := len(cache.prepared); n > maxStatements+50 {
			t.Errorf("have %d prepared statements", n)
		}
	})
}

// TestDeletedKey: a DELETE carries the key under id, or under the key's field,
// which counts more.
func TestDeletedKey(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		r := newRig(t, d, map[string]Table{"account": {Name: "account_ref", Columns: map[string]string{"pk": "id", "name": "title"}}}, accountTable)
		msg := func(signal, fields string, revision int) *message.Message {
			return lockstep(envelope(signal, "account", "{"+fields+","+versionJSON(int64(revision), at(revision))+"}"))
		}
		for key := range 4 {
			r.batch(t, msg("SAVE", fmt.Sprintf(`"pk":%d,"name":"x"`, key), 1))
		}
		r.batch(t, msg("DELETE", `"id":1`, 2), msg("DELETE", `"id":3,"pk":2`, 2))
		if diff := cmp.Diff([]string{"id=0", "id=3"}, dump(t, r.db, "SELECT id FROM account_ref")); diff != "" {
			t.Errorf("rows (-want +have):\n%s", diff)
		}
	})
}
