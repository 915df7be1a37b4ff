package outbox_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/outbox"
)

// column is a column's type, a value as SQL, and what the wire must carry.
type column struct{ declared, value, want string }

var postgresColumns = []column{
	{"smallint", `-7`, `-7`},
	{"bigint", `9223372036854775807`, `9223372036854775807`},
	{"boolean", `true`, `true`},
	{"numeric(30,10)", `12345678901234567890.1234567890`, `12345678901234567890.1234567890`},
	{"numeric", `'NaN'`, `null`},
	{"double precision", `0.1`, `0.1`},
	{"double precision", `'-Infinity'`, `null`},
	{"real", `'NaN'`, `null`},
	{"text", `E'line\n"quoted" \\ é 😀 </script>'`, `"line\n\"quoted\" \\ é 😀 </script>"`},
	{"varchar(5)", `NULL`, `null`},
	{"uuid", `'1A10C440-0728-58e6-99ee-92dc7dc35e29'`, `"1a10c440-0728-58e6-99ee-92dc7dc35e29"`},
	{"json", `'{"b": 1,"a":[null]}'`, `{"b": 1,"a":[null]}`},
	{"jsonb", `'{"b": 1.50, "a": [null]}'`, `{"a": [null], "b": 1.50}`},
	{"timestamptz", `'2026-01-02 06:04:05.007919+03'`, `"2026-01-02 03:04:05.007919+00:00"`},
	{"timestamptz", `'infinity'`, `null`},
	{"timestamp", `'2026-01-02 03:04:05'`, `"2026-01-02 03:04:05.000000"`},
	{"date", `'2026-01-02'`, `"2026-01-02"`},
	{"date", `'-infinity'`, `null`},
	{"time", `'03:04:05.5'`, `"03:04:05.5"`},
	{"interval", `'1 day 2 seconds'`, `"1 day 00:00:02"`},
	{"bytea", `decode(repeat('fb', 60), 'hex')`, `"` + strings.Repeat("+/v7", 20) + `"`},
	{"integer[]", `'{1,NULL,3}'`, `[1,null,3]`},
	{"text[]", `'{a,"b c"}'`, `["a","b c"]`},
	{"inet", `'10.0.0.1/8'`, `"10.0.0.1/8"`},
	{"int4range", `'[1,5)'`, `"[1,5)"`},
	{"mood", `'happy'`, `"happy"`},
	{"amount", `'1.50'`, `1.50`},
	{"amount", `'NaN'`, `null`},
}

var sqliteColumns = []column{
	{"INTEGER", `-7`, `-7`},
	{"BIGINT", `9223372036854775807`, `9223372036854775807`},
	{"BOOLEAN", `true`, `true`},
	{"REAL", `0.1`, `0.1`},
	{"REAL", `9e999`, `null`},
	{"TEXT", `'line' || char(10) || '"quoted" \ é 😀'`, `"line\n\"quoted\" \\ é 😀"`},
	{"VARCHAR(5)", `NULL`, `null`},
	{"JSON", `'{"b": 1,"a":[null]}'`, `{"b": 1,"a":[null]}`},
	{"TEXT", `'{"b": 1}'`, `"{\"b\": 1}"`},
	{"DATETIME", `'2026-01-02 06:04:05.007919+03:00'`, `"2026-01-02 03:04:05.007919+00:00"`},
	{"DATE", `'2026-01-02'`, `"2026-01-02"`},
	{"BLOB", `x'fbfbfb'`, `"+/v7"`},
}

// The session's time zone is not UTC.
var mysqlColumns = []column{
	{"tinyint(1)", `1`, `true`},
	{"tinyint(1)", `7`, `7`},
	{"bit(1)", `b'0'`, `false`},
	{"bit(8)", `b'101'`, `5`},
	{"bigint unsigned", `18446744073709551615`, `18446744073709551615`},
	{"decimal(40,10)", `12345678901234567890.1234567890`, `12345678901234567890.1234567890`},
	{"double", `0.1`, `0.1`},
	{"float", `16777217.5`, `1.6777218e+07`},
	{"datetime(6)", `'2026-01-02 03:04:05.007919'`, `"2026-01-02 03:04:05.007919"`},
	{"datetime", `'0000-00-00 00:00:00'`, `null`},
	{"timestamp(3) NULL", `'2026-01-02 03:04:05.007'`, `"2026-01-02 06:34:05.007000+00:00"`},
	{"date", `'2026-01-02'`, `"2026-01-02"`},
	{"time(1)", `'-838:59:58.5'`, `"-838:59:58.5"`},
	{"year", `2026`, `2026`},
	{"varchar(9) CHARACTER SET latin1", `'é'`, `"é"`},
	{"longtext", `'"quoted" é 😀'`, `"\"quoted\" é 😀"`},
	{"varbinary(9)", `x'fbfbfb'`, `"+/v7"`},
	{"longblob", `x''`, `""`},
	{"json", `'{"b": 1,"a":[null]}'`, `{"b": 1,"a":[null]}`},
	{"set('a','b')", `'a,b'`, `"a,b"`},
	{"inet6", `'2001:db8::1'`, `"2001:db8::1"`},
	{"varchar(5)", `NULL`, `null`},
}

func TestValuesOnTheWire(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		columns := sqliteColumns
		if m.dialect == outbox.MySQL {
			columns = mysqlColumns
		}
		if m.dialect == outbox.Postgres {
			columns = postgresColumns
			m.exec(t, `CREATE TYPE mood AS ENUM ('sad', 'happy')`)
			m.exec(t, `CREATE DOMAIN amount AS numeric(10,2)`)
		}
		var declared, names, values strings.Builder
		want := map[string]string{"id": `1`}
		for i, c := range columns {
			name := "c" + string(rune('A'+i)) + " \"x\"" // a name that needs quoting
			quoted := `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
			declared.WriteString(", " + quoted + " " + c.declared)
			names.WriteString(", " + quoted)
			values.WriteString(", " + c.value)
			want[name] = c.want
		}
		m.exec(t, `CREATE TABLE samples (id INTEGER PRIMARY KEY`+declared.String()+`)`)
		lines, err := migrations.TableSQL(m.dialect, "samples")
		if err != nil {
			t.Fatal(err)
		}
		m.exec(t, lines)
		m.ob = m.outbox(t, outbox.Entity{ID: "sample", Table: "samples"})
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
			return errors.Join(exec(ctx, tx, `INSERT INTO samples (id`+names.String()+`) VALUES (1`+values.String()+`)`), tx.Saved("sample", 1))
		})
		e, err := event.Decode(m.rows(t)[0].payload)
		if err != nil {
			t.Fatal(err)
		}
		have := map[string]string{}
		for name, value := range event.Members(e.Data) {
			if string(name) != event.FieldRevision && string(name) != event.FieldUpdated {
				have[string(name)] = string(value)
			}
		}
		if diff := cmp.Diff(want, have); diff != "" {
			t.Errorf("values (-want +have):\n%s", diff)
		}
	})
}

// Keys of other types than integers, a key that is not called id, and a table in
// another schema.
func TestOtherKeys(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		keyType := map[outbox.Dialect]string{outbox.Postgres: "uuid", outbox.MySQL: "uuid", outbox.SQLite: "TEXT"}[m.dialect]
		m.exec(t, `CREATE TABLE things (code `+keyType+` PRIMARY KEY, name TEXT)`)
		lines, err := migrations.TableSQL(m.dialect, "things")
		if err != nil {
			t.Fatal(err)
		}
		m.exec(t, lines)
		m.ob = m.outbox(t, outbox.Entity{ID: "thing", Table: "things", Key: "code"})
		const key = "1a10c440-0728-58e6-99ee-92dc7dc35e29"
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
			return errors.Join(exec(ctx, tx, `INSERT INTO things (code, name) VALUES ('`+key+`', 'x')`), tx.Saved("thing", key))
		})
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error { return tx.Delete(ctx, "thing", key) })
		m.wantSent(t, sent{"thing", key, event.Save, 1, "x"}, sent{"thing", key, event.Delete, 2, nil})
		e, err := event.Decode(m.rows(t)[1].payload)
		if err != nil {
			t.Fatal(err)
		}
		have := map[string]string{"pk": string(e.Key)}
		for name, value := range event.Members(e.Data) {
			have[string(name)] = string(value)
		}
		quoted := `"` + key + `"`
		if have["pk"] != quoted || have["id"] != quoted || have["code"] != quoted || have[event.FieldRevision] != "2" || len(have) != 5 {
			t.Errorf("a DELETE carries %v, want the key as id and as code, and the version", have)
		}
	})
}

// No name of a table or a column can meet one that the statements use inside.
func TestTablesOfAnyName(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		names := []string{
			"m", "t", "c", "d", "r", "k", "marked", "changed", "buried", "f0", "ord", "event_id", "lockstep", `quo"ted`, "select", "UPPER", "tablé", "excluded",
		}
		var want []sent
		for i, name := range names {
			q := m.dialect.QuoteColumn(name)
			m.exec(t, `CREATE TABLE `+q+` (`+q+` BIGINT PRIMARY KEY, f1 TEXT, "name" TEXT, "payload" REAL, "key" TEXT, "revision" TEXT, "entity" TEXT)`)
			lines, err := migrations.TableSQL(m.dialect, name)
			if err != nil {
				t.Fatal(err)
			}
			m.exec(t, lines)
			id := "e" + string(rune('a'+i))
			m.ob = m.outbox(t, outbox.Entity{ID: id, Table: name, Key: name})
			m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
				return errors.Join(exec(ctx, tx, `INSERT INTO `+q+` (`+q+`, "name") VALUES (1, 'x')`), tx.Saved(id, 1), tx.Flush(ctx),
					tx.Deleting(ctx, id, 1), tx.Delete(ctx, id, 1))
			})
			want = append(want, sent{id, "1", event.Save, 1, "x"}, sent{id, "1", event.Delete, 2, nil}, sent{id, "1", event.Delete, 3, nil})
		}
		m.wantSent(t, want...)
	})
}
