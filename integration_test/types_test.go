package integration_test

import (
	"database/sql"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/go-sql-driver/mysql"
	"github.com/google/uuid"

	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/outbox"
	"github.com/lockstep-go/lockstep/outboxtest"
)

// typed is a value of a column: what the wire carries, and what a replica's
// column of the same type then holds.
type typed struct {
	columnType, value, wire string
	// replica is "same", "null", "as sent" (the text on the wire) or "canonical" (a UUID).
	replica string
}

// typesDialect is a database whose column types docs/wire.md lists.
type typesDialect struct {
	dialect outbox.Dialect
	open    func(testing.TB) (*sql.DB, string)
	setup   []string // types of its own for extra
	extra   []typed
	text    string // SQL for a value's text, which tells all values apart
	odd     bool   // sessions have other settings, which some forms on the wire follow
}

// oddSessions opens PostgreSQL with settings that are not the defaults.
func oddSessions(t testing.TB) (*sql.DB, string) {
	t.Helper()
	_, dsn := testdb.Postgres(t)
	dsn += "&timezone=Asia/Kolkata&intervalstyle=iso_8601"
	db, err := sql.Open("postgres", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db, dsn
}

// utcSessions opens MariaDB as a replica with timestamps has to: in UTC.
func utcSessions(t testing.TB) (*sql.DB, string) {
	t.Helper()
	return mariaDBWith(t, func(*mysql.Config) {})
}

// textProtocol opens MariaDB so that values come as texts, and times as Go's.
func textProtocol(t testing.TB) (*sql.DB, string) {
	t.Helper()
	return mariaDBWith(t, func(cfg *mysql.Config) { cfg.InterpolateParams, cfg.ParseTime = true, true })
}

func mariaDBWith(t testing.TB, set func(*mysql.Config)) (*sql.DB, string) {
	t.Helper()
	_, dsn := testdb.MariaDB(t)
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Params["time_zone"] = "'+00:00'"
	set(cfg)
	dsn = cfg.FormatDSN()
	db, err := sql.Open("mysql", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db, dsn
}

// oddly opens databases with other settings.
var oddly = map[outbox.Dialect]func(testing.TB) (*sql.DB, string){outbox.Postgres: oddSessions, outbox.MySQL: textProtocol}

var typesDialects = []typesDialect{
	{
		dialect: outbox.Postgres, open: testdb.Postgres, text: `{column}::text`,
		setup: []string{
			`CREATE TYPE mood AS ENUM ('sad', 'very "happy"')`,
			`CREATE DOMAIN amount AS numeric(10,2) CHECK (VALUE < 1000)`,
			`CREATE DOMAIN small_amount AS amount`,
			`CREATE DOMAIN digest AS bytea`,
			`CREATE DOMAIN moment AS timestamptz`,
			`CREATE TYPE address AS (street text, number integer, moved date, tags text[])`,
		},
		extra: []typed{
			{"mood", `'very "happy"'`, `"very \"happy\""`, "same"},
			{"mood[]", `'{sad,NULL}'`, `["sad",null]`, "same"},
			{"small_amount", `1.5`, `1.50`, "same"},
			{"digest", `'\x00ff10'`, `"AP8Q"`, "same"},
			{"moment", `'2026-01-02 03:04:05+00'`, `"2026-01-02 03:04:05.000000+00:00"`, "same"},
			{
				"address", `ROW('a "b", c', 7, '2026-01-02', '{x,NULL}')`,
				`{"street":"a \"b\", c","number":7,"moved":"2026-01-02","tags":["x",null]}`, "same",
			},
			{"address[]", `ARRAY[ROW('a', NULL, NULL, NULL)::address]`, `[{"street":"a","number":null,"moved":null,"tags":null}]`, "same"},
			{"numeric(40,20)", `12345678901234567890.12345678901234567890`, `12345678901234567890.12345678901234567890`, "same"},
			{"text", `repeat('é😀', 5000)`, `"` + strings.Repeat("é😀", 5000) + `"`, "same"},
			{"bytea", `decode(repeat('fb', 60), 'hex')`, `"` + strings.Repeat("+/v7", 20) + `"`, "same"},
			{"bytea", `''`, `""`, "same"},
		},
	},
	{
		dialect: outbox.MySQL, open: utcSessions, text: `HEX(CAST({column} AS BINARY))`,
		extra: []typed{
			{"bigint AS (id * 0 + 7) STORED", `DEFAULT`, `7`, "same"},
			{"varchar(9) AS (concat('x', id * 0)) VIRTUAL", `DEFAULT`, `"x0"`, "same"},
			{"int(6) zerofill", `7`, `7`, "same"},
			{"decimal(8,2) zerofill", `1.5`, `1.50`, "same"},
			{"decimal(8,2) zerofill", `0`, `0.00`, "same"},
			{"double(8,2) zerofill", `1.5`, `1.5`, "same"},
			{"year", `0`, `0`, "same"},
			{"tinyint(1)", `-1`, `-1`, "same"},
			{"tinyint(1) unsigned", `1`, `true`, "same"},
			{"bit(64)", `~0`, `18446744073709551615`, "same"},
			{"bit(1)", `0`, `false`, "same"},
			{"double", `-1.7976931348623157e308`, `-1.7976931348623157e+308`, "same"},
			{"float", `16777217`, `1.6777216e+07`, "same"},
			{"float", `3.4028234663852886e38`, `3.4028234663852886e+38`, "same"},
			{"float", `0.1`, `0.1`, "same"},
			{"decimal(5,0)", `-0`, `0`, "same"},
			{"datetime(3)", `'9999-12-31 23:59:59.999'`, `"9999-12-31 23:59:59.999000"`, "same"},
			{"timestamp", `FROM_UNIXTIME(1)`, `"1970-01-01 00:00:01.000000+00:00"`, "same"},
			{"time(1)", `'-00:00:00.5'`, `"-00:00:00.5"`, "same"},
			{"varchar(9) CHARACTER SET latin1", `'é€'`, `"é€"`, "same"},
			{"text CHARACTER SET utf16", `'é😀'`, `"é😀"`, "same"},
			{"char(3) COLLATE utf8mb4_bin", `'x '`, `"x"`, "same"},
			{"varchar(9)", `'x '`, `"x "`, "same"},
			{"text", `'a\\b\n\0'`, `"a\\b\n\u0000"`, "same"},
			{"mediumtext", `repeat('é😀', 5000)`, `"` + strings.Repeat("é😀", 5000) + `"`, "same"},
			{"blob", `''`, `""`, "same"},
			{"longblob", `unhex(repeat('fb', 60))`, `"` + strings.Repeat("+/v7", 20) + `"`, "same"},
			{"enum('sad','very \"happy\"') CHARACTER SET latin1", `'very "happy"'`, `"very \"happy\""`, "same"},
			{"set('a','b')", `''`, `""`, "same"},
			{"json", `'[18446744073709551616, 1.50, "é"]'`, `[18446744073709551616, 1.50, "é"]`, "same"},
			{"inet6", `'::ffff:10.0.0.1'`, `"::ffff:10.0.0.1"`, "same"},
		},
	},
	{
		dialect: outbox.SQLite, open: testdb.SQLite, text: `typeof({column}) || ' ' || quote({column})`,
		extra: []typed{
			{"NUMERIC(10,2)", `7`, `7`, "same"},
			{"VARCHAR(5)", `'more than five'`, `"more than five"`, "same"},
			{"CLOB", `'x' || char(10)`, `"x\n"`, "same"},
			{"BLOB", `x''`, `""`, "same"},
			{"INTEGER", `'text in it'`, `"text in it"`, "same"},
			{"BIGINT", `-9223372036854775808`, `-9223372036854775808`, "same"},
			{"REAL", `1e-7`, `1e-07`, "same"},
			{"TIME", `'03:04:05'`, `"03:04:05"`, "same"},
			{"DECIMAL(30,10)", `'12345678901234567890.5'`, `1.2345678901234567e+19`, "same"},
			{"TEXT", `'12345678901234567890.5'`, `"12345678901234567890.5"`, "same"},
		},
	},
}

// documentedValues reads a table of docs/wire.md.
func documentedValues(t *testing.T, d outbox.Dialect) (all []typed) {
	t.Helper()
	page, err := os.ReadFile("../docs/wire.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "<!-- values: "+string(d)+" -->\n")
	for line := range strings.Lines(rest) {
		if !strings.HasPrefix(line, "|") {
			break
		}
		if cells := strings.Split(line, "`"); len(cells) == 7 {
			all = append(all, typed{cells[1], cells[3], cells[5], strings.Trim(cells[6], " |\n")})
		}
	}
	if len(all) < 15 {
		t.Fatalf("docs/wire.md documents %d values for %s", len(all), d)
	}
	return all
}

// Each type is written, sent as docs/wire.md says, and held by a replica's column
// of the same type as it says: in a new row and in one that is changed.
func TestColumnTypes(t *testing.T) {
	t.Parallel()
	all := slices.Clone(typesDialects)
	for _, d := range typesDialects {
		if open := oddly[d.dialect]; open != nil {
			d.odd, d.open = true, open
			all = append(all, d)
		}
	}
	for _, d := range all {
		t.Run(fmt.Sprintf("%s odd=%v", d.dialect, d.odd), func(t *testing.T) {
			t.Parallel()
			newTypesRig(t, d, append(documentedValues(t, d.dialect), d.extra...)).check(t)
		})
	}
}

type typesRig struct {
	typesDialect
	values          []typed
	master, replica *sql.DB
	ob              *outbox.Outbox
	delivery        *outboxtest.Delivery
	read            int // events delivered
}

func newTypesRig(t *testing.T, d typesDialect, values []typed) *typesRig {
	t.Helper()
	r := &typesRig{typesDialect: d, values: values}
	r.master, _ = d.open(t)
	r.replica, _ = d.open(t)
	columns := ""
	for i, v := range values {
		columns += fmt.Sprintf(", v%d %s", i, v.columnType)
		if strings.HasPrefix(v.columnType, "timestamp") { // which older MariaDBs take for NOT NULL
			columns += " NULL"
		}
	}
	for _, db := range []*sql.DB{r.master, r.replica} {
		if _, err := migrations.Up(t.Context(), db, d.dialect); err != nil {
			t.Fatal(err)
		}
		versions, err := migrations.TableSQL(d.dialect, "samples")
		if err != nil {
			t.Fatal(err)
		}
		for _, statement := range append(d.setup, `CREATE TABLE samples (id INTEGER PRIMARY KEY`+columns+`)`, versions) {
			execute(t, db, statement)
		}
	}
	var err error
	if r.ob, err = outbox.New(outbox.Config{Dialect: d.dialect, Entities: []outbox.Entity{{ID: "sample", Table: "samples"}}}); err != nil {
		t.Fatal(err)
	}
	c, err := consumer.New(r.replica, outboxtest.NoBroker{}, consumer.Config{Queue: "types", Dialect: d.dialect})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Table("sample", consumer.Table{Name: "samples"}); err != nil {
		t.Fatal(err)
	}
	r.delivery = outboxtest.NewDelivery(t, c)
	return r
}

func (r *typesRig) check(t *testing.T) {
	t.Helper()
	var literals, sets, nulls strings.Builder
	for i, v := range r.values {
		literals.WriteString(", " + v.value)
		fmt.Fprintf(&sets, ", v%d = %s", i, v.value)
		if v.value != generated {
			fmt.Fprintf(&nulls, ", v%d = NULL", i)
		}
	}
	r.change(t, 1, `INSERT INTO samples VALUES (1`+literals.String()+`, 0, `+versionDefault[r.dialect]+`)`)
	r.compare(t, 1, "in a new row")
	r.change(t, 2, `INSERT INTO samples (id) VALUES (2)`)
	r.change(t, 2, `UPDATE samples SET id = 2`+sets.String()+` WHERE id = 2`)
	r.compare(t, 2, "in a changed row")
	r.change(t, 1, `UPDATE samples SET id = 1`+nulls.String()+` WHERE id = 1`)
	for i, v := range r.values {
		if have := r.textOf(t, r.replica, 1, i); v.value != generated && have.Valid && !strings.HasPrefix(have.String, "null") {
			t.Errorf("%s: %s was set to NULL, the replica holds %s", v.columnType, v.value, have.String)
		}
	}
}

// generated stands for the value that a generated column has of itself.
const generated = "DEFAULT"

// versionDefault is a value for cqrs_updated.
var versionDefault = map[outbox.Dialect]string{
	outbox.Postgres: `now()`, outbox.MySQL: `UTC_TIMESTAMP(6)`, outbox.SQLite: `'2026-01-02 03:04:05.000000+00:00'`,
}

// change runs a statement and delivers its event.
func (r *typesRig) change(t *testing.T, key int, statement string) {
	t.Helper()
	sqlTx, err := r.master.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sqlTx.Rollback() }()
	if _, err := sqlTx.ExecContext(t.Context(), statement); err != nil {
		t.Fatalf("%v\n%.3000s", err, statement)
	}
	tx := r.ob.Wrap(sqlTx)
	if err := tx.Saved("sample", key); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	sent := outboxtest.Events(t, r.master)
	msg := message.NewMessage("", sent[r.read].Payload)
	msg.Metadata.Set(event.HeaderEventID, sent[r.read].Metadata[event.HeaderEventID])
	r.read++
	if o := r.delivery.DeliverMessage(msg); o.Result != consumer.Applied {
		t.Fatalf("the event is %s: %v", o.Result, o.Err)
	}
}

// compare holds the newest event and both tables against what is documented.
func (r *typesRig) compare(t *testing.T, key int, where string) {
	t.Helper()
	sent := outboxtest.Events(t, r.master)
	e, err := event.Decode(sent[len(sent)-1].Payload)
	if err != nil {
		t.Fatal(err)
	}
	wire := map[string]string{}
	for name, value := range event.Members(e.Data) {
		wire[string(name)] = string(value)
	}
	for i, v := range r.values {
		if have := wire[fmt.Sprintf("v%d", i)]; have != v.wire && (!r.odd || !followsSession(v.columnType)) {
			t.Errorf("%s: %s %.200s is sent as %.200s, want %.200s", where, v.columnType, v.value, have, v.wire)
		}
		want := r.textOf(t, r.master, key, i)
		switch v.replica {
		case "same":
		case "null":
			want = r.nullText()
		case "canonical":
			want.String = fmt.Sprintf(`text '%s'`, uuid.MustParse(strings.Trim(v.value, "'")))
		case "as sent":
			text, _ := event.Text([]byte(v.wire))
			want.String = fmt.Sprintf(`text '%s'`, text)
		default:
			t.Errorf("%s %s: docs/wire.md says %q of the replica", v.columnType, v.value, v.replica)
		}
		if have := r.textOf(t, r.replica, key, i); have != want {
			t.Errorf("%s: %s %.200s: the replica holds %.200v, want %.200v", where, v.columnType, v.value, have, want)
		}
	}
}

// followsSession reports whether a type's form on the wire depends on settings of
// the writing session.
func followsSession(columnType string) bool {
	return columnType == "interval" || columnType == "timestamptz[]" || columnType == "tstzrange"
}

// nullText is what NULL looks like.
func (r *typesRig) nullText() sql.NullString {
	if r.dialect == outbox.SQLite {
		return sql.NullString{String: "null NULL", Valid: true}
	}
	return sql.NullString{}
}

func (r *typesRig) textOf(t *testing.T, db *sql.DB, key, i int) (text sql.NullString) {
	t.Helper()
	column := fmt.Sprintf("v%d", i)
	if r.values[i].columnType == "float" { // whose text has fewer digits than the number
		column = "(" + column + " + 0e0)"
	}
	query := fmt.Sprintf(`SELECT %s FROM samples WHERE id = %d`, strings.ReplaceAll(r.text, "{column}", column), key)
	if err := db.QueryRowContext(t.Context(), query).Scan(&text); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return text
}
