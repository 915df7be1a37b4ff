package consumer

import (
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/internal/testdb"
)

// thingColumns are those of thing_ref in the tests of values.
var thingColumns = []struct{ name, columnType string }{
	{"i", "integer"},
	{"n", "numeric(6,2)"},
	{"b", "boolean"},
	{"t", "text"},
	{"v", "varchar(5)"},
	{"u", "uuid"},
	{"j", "jsonb"},
	{"d", "date"},
	{"ts", "timestamptz"},
	{"c", "char(3)"},
	{"a", "text[]"},
	{"y", "bytea"}, // these two cannot travel in arrays
}

// valueCase is a field of a message and what its column then holds.
type valueCase struct {
	field, column string
	want          string
	fails         bool
}

func valueCases() []valueCase {
	deep := strings.Repeat("[", 9900) + strings.Repeat("]", 9900)
	return []valueCase{
		{`"i":7`, "i", "7", false},
		{`"i":"7"`, "i", "7", false},
		{`"i":" 7 "`, "i", "7", false},
		{`"i":null`, "i", "null", false},
		{`"i":1,"i":2`, "i", "2", false},
		{`"i":1.9`, "i", "", true},
		{`"i":"x"`, "i", "", true},
		{`"i":{}`, "i", "", true},
		{`"i":2147483648`, "i", "", true},
		{`"n":1.50`, "n", "1.50", false},
		{`"n":"1.5"`, "n", "1.50", false},
		{`"n":1e3`, "n", "1000.00", false},
		{`"n":12345.6`, "n", "", true},
		{`"b":true`, "b", "true", false},
		{`"b":1`, "b", "true", false},
		{`"b":"yes"`, "b", "true", false},
		{`"b":2`, "b", "", true},
		{`"t":7`, "t", "7", false},
		{`"t":"\u00e9\/\n\"\ud83d\ude00"`, "t", "é/\n\"😀", false},
		{`"t":"a\u0000b"`, "t", "", true},
		{`"t":"\ud800"`, "t", "", true},
		{`"other":"\u0000\ud800","t":"ok"`, "t", "ok", false},
		{`"t":"NULL"`, "t", "NULL", false},
		{`"t":"{a,\\\\\"b"`, "t", `{a,\\"b`, false},
		{`"t":{"a":[1]}`, "t", `{"a":[1]}`, false},
		{`"v":"12345"`, "v", "12345", false},
		{`"v":"123456"`, "v", "", true},
		{`"u":"065659D9B41E5B62BC7A4C6042311468"`, "u", "065659d9-b41e-5b62-bc7a-4c6042311468", false},
		{`"u":"065659"`, "u", "", true},
		{`"j":{"b":1,"a":"x"}`, "j", `{"a": "x", "b": 1}`, false},
		{`"j":"text"`, "j", `"text"`, false},
		{`"j":"\u0000"`, "j", "", true},
		{`"a":["x","y"]`, "a", "{x,y}", false},
		{`"a":"{x,y}"`, "a", "{x,y}", false},
		{`"a":7`, "a", "", true},
		{`"y":"aGVsbG8="`, "y", "hello", false},
		{`"y":"a"`, "y", "", true},
		{`"c":"x"`, "c", "x  ", false},
		{`"c":"xxxx"`, "c", "", true},
		{`"d":"2026-01-02"`, "d", "2026-01-02 00:00:00.000000+00:00", false},
		{`"d":"2026-13-02"`, "d", "", true},
		{`"ts":"2026-01-02 03:04:05.5+03:00"`, "ts", "2026-01-02 00:04:05.500000+00:00", false},
		{`"ts":"2026-01-02T03:04:05Z"`, "ts", "2026-01-02 03:04:05.000000+00:00", false},
		{`"ts":"2026-01-02 03:04:05"`, "ts", "2026-01-02 03:04:05.000000+00:00", false}, // no offset: UTC, whatever the session's zone
		{`"t":` + deep, "t", deep, false},
	}
}

func thing(fields string) *message.Message { return thingAt(1, fields) }

func thingAt(revision int64, fields string) *message.Message {
	return lockstep(envelope("SAVE", "thing", "{"+fields+","+versionJSON(revision, at(int(revision)))+"}"))
}

// message makes a message of all columns, null but for the case's.
func (tc valueCase) message(key int, revision int64, columns int) *message.Message {
	fields := fmt.Sprintf(`"id":%d`, key)
	for _, c := range thingColumns[:columns] {
		if !strings.Contains(tc.field, `"`+c.name+`":`) {
			fields += fmt.Sprintf(`,%q:null`, c.name)
		}
	}
	return thingAt(revision, fields+","+tc.field)
}

// TestValuesOnPostgres: what PostgreSQL's own input conversion takes is applied;
// what it refuses fails that message alone and names column, value and key. That
// holds for new rows and for changed ones, which are written by other statements,
// as JSON or as arrays, together and alone.
func TestValuesOnPostgres(t *testing.T) {
	t.Parallel()
	for _, mode := range []struct {
		name    string
		columns int
		stored  bool // the row is there already
		alone   bool
	}{
		{"new rows", 12, false, false},
		{"changed rows as JSON", 12, true, false},
		{"changed rows as arrays", 10, true, false},
		{"changed rows as arrays, alone", 10, true, true},
	} {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			_, dsn := testdb.Postgres(t)
			db := reopen(t, dsn, "timezone", "America/New_York")
			migrate(t, db, Postgres)
			ddl := "CREATE TABLE thing_ref (id integer PRIMARY KEY, cqrs_revision integer NOT NULL, cqrs_updated timestamptz NOT NULL"
			for _, c := range thingColumns[:mode.columns] {
				ddl += ", " + c.name + " " + c.columnType
			}
			mustExec(t, db, ddl+")")
			r := rigOn(t, db, map[string]Table{"thing": {Name: "thing_ref"}})

			var messages []*message.Message
			used := map[int]valueCase{}
			for key, tc := range valueCases() {
				if !slices.ContainsFunc(thingColumns[:mode.columns], func(c struct{ name, columnType string }) bool { return c.name == tc.column }) {
					continue
				}
				used[key] = tc
				revision := int64(1)
				if mode.stored {
					mustExec(t, db, fmt.Sprintf("INSERT INTO thing_ref (id, cqrs_revision, cqrs_updated) VALUES (%d, 1, now())", key))
					revision = 2
				}
				messages = append(messages, tc.message(key, revision, mode.columns))
			}
			failures := map[string]error{}
			size := len(messages)
			if mode.alone {
				size = 1
			}
			for part := range slices.Chunk(messages, size) {
				for _, f := range r.batch(t, part...).failures {
					failures[f.in.key] = f.err
				}
			}
			for key, tc := range used {
				r.requireValue(t, key, tc, failures[fmt.Sprint(key)])
			}
		})
	}
}

// requireValue holds a row, or the error of a message that failed, to a case.
func (r *rig) requireValue(t *testing.T, key int, tc valueCase, err error) {
	t.Helper()
	field := shorten(tc.field, 80)
	if tc.fails {
		var data *DataError
		switch {
		case !errors.As(err, &data):
			t.Errorf("%s: have %v, want a DataError", field, err)
		case data.Entity != "thing" || data.Key != fmt.Sprint(key) || data.Column != tc.column || len(data.Value) > 60 || len(err.Error()) > 500:
			t.Errorf("%s: have %#v, want it to name thing/%d and column %s", field, data, key, tc.column)
		}
		return
	}
	if err != nil {
		t.Errorf("%s: %v", field, err)
		return
	}
	have := dump(t, r.db, fmt.Sprintf("SELECT %s AS have FROM thing_ref WHERE id = %d", tc.column, key))
	if diff := cmp.Diff([]string{strings.TrimSpace("have=" + tc.want)}, have); diff != "" {
		t.Errorf("%s (-want +have):\n%s", field, diff)
	}
}

// reopen opens a database again with another setting.
func reopen(t *testing.T, dsn, setting, value string) *sql.DB {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set(setting, value)
	u.RawQuery = q.Encode()
	db, err := sql.Open("postgres", u.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// TestUpdatedInAnyForm: cqrs_updated is one moment on both databases, however it
// is written, and orders events as decide does.
func TestUpdatedInAnyForm(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		r := accountRig(t, d)
		for i, text := range []string{
			"2026-11-22 12:00:01.5+00:00", "2026-11-22 12:00:01.500000", "2026-11-22T12:00:01.5Z", "2026-11-22 15:00:01.5+03:00",
			"2026-11-22T14:00:01.5000004+0200", "2026-11-22T12:00:01.5000009Z",
		} {
			r.batch(t, lockstep(envelope("SAVE", "account", fmt.Sprintf(`{"id":%d,"name":"x","note":null,"cqrs_revision":"1","cqrs_updated":%q}`, i, text))))
			have, _ := r.world(t, i)
			want := time.Date(2026, 11, 22, 12, 0, 1, 500_000_000, time.UTC)
			if !have.Updated.Equal(want) || have.Revision != 1 {
				t.Errorf("%s: have %+v, want revision 1 at %s", text, have, want)
			}
		}
	})
}

// TestKeysInAnyForm: spellings of one key are one row and one tombstone.
func TestKeysInAnyForm(t *testing.T) {
	t.Parallel()
	const id = "065659d9-b41e-5b62-bc7a-4c6042311468"
	eachDialect(t, func(t *testing.T, d Dialect) {
		tests := []struct {
			keyType string
			a, b    string
			only    Dialect
		}{
			{"bigint", `1`, `"1"`, ""},
			{"bigint", `"01"`, `" 1 "`, ""},
			{"uuid", `"` + id + `"`, `"` + strings.ToUpper(strings.ReplaceAll(id, "-", "")) + `"`, ""},
			{"text", `7`, `"7"`, ""},
			{"numeric", `1.0`, `"1.00"`, Postgres},
			{"timestamptz", `"2026-01-02 03:04:05Z"`, `"2026-01-02T05:04:05+02:00"`, Postgres},
			{"char(5)", `"a"`, `"a  "`, Postgres},
		}
		for i, tc := range tests {
			if tc.only != "" && tc.only != d {
				continue
			}
			table := fmt.Sprintf("keyed_%d", i)
			db := openDB(t, d, fmt.Sprintf(`CREATE TABLE %s (id %s PRIMARY KEY, name text, cqrs_revision bigint NOT NULL, cqrs_updated %%s NOT NULL)`, table, tc.keyType))
			r := rigOn(t, db, map[string]Table{"keyed": {Name: table}})
			at := func(signal, key string, revision int) *message.Message {
				return lockstep(envelope(signal, "keyed", fmt.Sprintf(`{"id":%s,"name":"r%d",%s}`, key, revision, versionJSON(int64(revision), at(revision)))))
			}
			rows := func() []string { return dump(t, db, "SELECT name FROM "+table) }
			name := fmt.Sprintf("%s %s and %s", tc.keyType, tc.a, tc.b)

			if res := r.batch(t, at("SAVE", tc.a, 1), at("SAVE", tc.b, 3), at("SAVE", tc.a, 2)); len(res.failures) > 0 {
				t.Errorf("%s: %v", name, res.failures[0].err)
			}
			if diff := cmp.Diff([]string{"name=r3"}, rows()); diff != "" {
				t.Errorf("%s, saved (-want +have):\n%s", name, diff)
			}
			r.batch(t, at("DELETE", tc.b, 4))
			r.batch(t, at("SAVE", tc.a, 3))
			r.batch(t, at("SAVE", tc.b, 4), at("DELETE", tc.a, 2))
			if diff := cmp.Diff([]string{}, rows()); diff != "" {
				t.Errorf("%s, deleted (-want +have):\n%s", name, diff)
			}
			if n := len(dump(t, db, `SELECT "key" FROM replica_tombstones`)); n != 1 {
				t.Errorf("%s: have %d tombstones, want 1", name, n)
			}
			r.batch(t, at("SAVE", tc.a, 5))
			if diff := cmp.Diff([]string{"name=r5"}, rows()); diff != "" {
				t.Errorf("%s, made anew (-want +have):\n%s", name, diff)
			}
			if n := len(dump(t, db, `SELECT "key" FROM replica_tombstones`)); n != 0 {
				t.Errorf("%s: have %d tombstones beside the row, want none", name, n)
			}
		}
	})
}

// TestValuesOnSQLite: what a JSON value becomes.
func TestValuesOnSQLite(t *testing.T) {
	t.Parallel()
	db := openDB(t, SQLite, `CREATE TABLE thing_ref (id integer PRIMARY KEY, i integer, r real, t text, n numeric, y blob, any,
		cqrs_revision integer NOT NULL, cqrs_updated text NOT NULL)`)
	r := rigOn(t, db, map[string]Table{"thing": {Name: "thing_ref"}})
	for _, tc := range []struct{ field, column, want string }{
		{`"i":7`, "i", "integer 7"},
		{`"i":"7"`, "i", "integer 7"},
		{`"i":true`, "i", "integer 1"},
		{`"i":false`, "i", "integer 0"},
		{`"i":null`, "i", "null "},
		{`"r":1.5`, "r", "real 1.5"},
		{`"r":2`, "r", "real 2.0"},
		{`"t":1.50`, "t", "text 1.50"},
		{`"t":"\u00e9\n"`, "t", "text é\n"},
		{`"t":{"a": [1]}`, "t", `text {"a": [1]}`},
		{`"t":12345678901234567890123`, "t", "text 12345678901234567890123"},
		{`"n":"1.10"`, "n", "real 1.1"},
		{`"y":"aGVsbG8="`, "y", "blob hello"},
		{`"any":1.5`, "any", "real 1.5"},
	} {
		mustExec(t, db, "DELETE FROM thing_ref")
		r.batch(t, thing(`"id":1,`+tc.field))
		have := dump(t, db, fmt.Sprintf("SELECT typeof(%[1]s) || ' ' || COALESCE(CAST(%[1]s AS TEXT), '') AS have FROM thing_ref", tc.column))
		if diff := cmp.Diff([]string{strings.TrimSpace("have=" + tc.want)}, have); diff != "" {
			t.Errorf("%s (-want +have):\n%s", tc.field, diff)
		}
	}
	for _, tc := range []struct{ field, column string }{{`"y":"?"`, "y"}, {`"id":"x"`, ""}} {
		res := r.batch(t, thing(`"id":2,`+tc.field), thing(`"id":3,"i":3`))
		var data *DataError
		if len(res.failures) != 1 || !errors.As(res.failures[0].err, &data) || data.Column != tc.column {
			t.Errorf("%s: have %v, want a DataError on column %q", tc.field, res.failures, tc.column)
		}
	}
}
