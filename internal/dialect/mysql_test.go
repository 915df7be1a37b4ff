package dialect_test

import (
	"database/sql"
	"fmt"
	"testing"

	"github.com/go-sql-driver/mysql"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/internal/dialect"
	"github.com/lockstep-go/lockstep/internal/testdb"
)

func exec(t *testing.T, db *sql.DB, statement string) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func TestMySQLDetect(t *testing.T) {
	t.Parallel()
	db, _ := testdb.MariaDB(t)
	if have, err := dialect.Detect(db); have != dialect.MySQL || err != nil {
		t.Errorf("have %q, %v", have, err)
	}
}

// A constant means the same in every SQL mode and character set.
func TestMySQLQuotedTextInEverySession(t *testing.T) {
	t.Parallel()
	db, _ := testdb.MariaDB(t)
	texts := []string{"", "plain", `it's`, `back\slash'`, `"double"`, "new\nline", "žluťoučký 🐎", "`tick`", "a\x00b"}
	for _, mode := range []string{"", "ANSI_QUOTES", "NO_BACKSLASH_ESCAPES", "ANSI,NO_BACKSLASH_ESCAPES"} {
		for _, charset := range []string{"utf8mb4", "latin1"} {
			conn, err := db.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := conn.ExecContext(t.Context(), "SET NAMES "+charset+"; SET sql_mode = '"+mode+"'"); err != nil {
				t.Fatal(err)
			}
			for _, want := range texts {
				var have string
				quoted := dialect.MySQL.QuoteText(want)
				if err := conn.QueryRowContext(t.Context(), "SELECT CAST("+quoted+" AS BINARY)").Scan(&have); err != nil {
					t.Errorf("mode %q, %s: %s: %v", mode, charset, quoted, err)
				} else if have != want {
					t.Errorf("mode %q, %s: %s means %q, want %q", mode, charset, quoted, have, want)
				}
			}
			var one int
			if err := conn.QueryRowContext(t.Context(), "SELECT "+dialect.MySQL.QuoteColumn("a`b\"c")+
				" FROM (SELECT 1 AS "+dialect.MySQL.QuoteColumn("a`b\"c")+") x").Scan(&one); err != nil {
				t.Errorf("mode %q: quoted column: %v", mode, err)
			}
			exec(t, db, "DO 1")
			_ = conn.Close()
		}
	}
}

func TestMySQLLoadTable(t *testing.T) {
	t.Parallel()
	db, _ := testdb.MariaDB(t)
	exec(t, db, `CREATE TABLE documents (plain json)`)
	exec(t, db, `CREATE TABLE other (region varchar(10), number int, PRIMARY KEY (region, number))`)
	exec(t, db, `CREATE TABLE things (
		id bigint unsigned AUTO_INCREMENT PRIMARY KEY,
		code varchar(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin UNIQUE,
		a int, b int NOT NULL DEFAULT 0,
		total decimal(10,2) AS (a * 2) STORED,
		at datetime(6) NOT NULL DEFAULT (utc_timestamp(6)),
		flag tinyint(1) NOT NULL,
		doc json, plain longtext CHECK (plain <> ''),
		UNIQUE (a, b))`)
	have, err := dialect.MySQL.LoadTable(t.Context(), db, "things")
	if err != nil {
		t.Fatal(err)
	}
	want := []dialect.Column{
		{Name: "id", Type: "bigint(20) unsigned", Base: "bigint", NotNull: true, HasDefault: true, PrimaryKey: 1, Unique: true},
		{Name: "code", Type: "varchar(20)", Base: "varchar", Unique: true, Collation: "utf8mb4_bin"},
		{Name: "a", Type: "int(11)", Base: "int"},
		{Name: "b", Type: "int(11)", Base: "int", NotNull: true, HasDefault: true},
		{Name: "total", Type: "decimal(10,2)", Base: "decimal", Generated: true},
		{Name: "at", Type: "datetime(6)", Base: "datetime", NotNull: true, HasDefault: true},
		{Name: "flag", Type: "tinyint(1)", Base: "tinyint", NotNull: true},
		{Name: "doc", Type: "longtext", Base: "json", Collation: "utf8mb4_bin"},
		{Name: "plain", Type: "longtext", Base: "longtext", Collation: "utf8mb4_general_ci"},
	}
	if diff := cmp.Diff(want, have.Columns); diff != "" {
		t.Errorf("columns (-want +have):\n%s", diff)
	}
	var name string
	if err := db.QueryRowContext(t.Context(), `SELECT DATABASE()`).Scan(&name); err != nil {
		t.Fatal(err)
	}
	composite, err := dialect.MySQL.LoadTable(t.Context(), db, name+".other")
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range composite.Columns {
		if c.PrimaryKey != i+1 || c.Unique {
			t.Errorf("column of a key of two: %+v", c)
		}
	}
	if _, err := dialect.MySQL.LoadTable(t.Context(), db, "nothing"); err == nil {
		t.Error("a table that does not exist has a catalogue")
	}
}

// The server itself says what its errors are.
func TestMySQLClassifyRealErrors(t *testing.T) {
	t.Parallel()
	db, _ := testdb.MariaDB(t)
	exec(t, db, `CREATE TABLE parent (id int PRIMARY KEY);
		CREATE TABLE t (id int PRIMARY KEY, n tinyint NOT NULL, s varchar(3), d date, j json, p int,
			CHECK (n < 100), FOREIGN KEY (p) REFERENCES parent (id));
		INSERT INTO parent VALUES (1); INSERT INTO t VALUES (1, 1, 'a', NULL, NULL, 1)`)
	for statement, want := range map[string]dialect.Class{
		`INSERT INTO t (id, n) VALUES (1, 1)`:                         dialect.Data,
		`INSERT INTO t (id, n) VALUES (2, NULL)`:                      dialect.Data,
		`INSERT INTO t (id) VALUES (2)`:                               dialect.Data,
		`INSERT INTO t (id, n) VALUES (2, 1000)`:                      dialect.Data,
		`INSERT INTO t (id, n) VALUES (2, 'x')`:                       dialect.Data,
		`INSERT INTO t (id, n) VALUES (2, 101)`:                       dialect.Data,
		`INSERT INTO t (id, n, s) VALUES (2, 1, 'long')`:              dialect.Data,
		`INSERT INTO t (id, n, s) VALUES (2, 1, 0xff)`:                dialect.Data,
		`INSERT INTO t (id, n, d) VALUES (2, 1, 'x')`:                 dialect.Data,
		`INSERT INTO t (id, n, j) VALUES (2, 1, '{')`:                 dialect.Data,
		`INSERT INTO t (id, n, p) VALUES (2, 1, 9)`:                   dialect.Data,
		`DELETE FROM parent`:                                          dialect.Data,
		`SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'`:             dialect.Data,
		`SELECT * FROM nothing`:                                       dialect.Outage,
		`SET STATEMENT max_statement_time = 0.3 FOR SELECT SLEEP(30)`: dialect.Canceled,
	} {
		_, err := db.ExecContext(t.Context(), statement)
		if err == nil {
			t.Errorf("%s: no error", statement)
		} else if have := dialect.Classify(err); have != want {
			t.Errorf("%s: class %v, want %v: %v", statement, have, want, err)
		}
		if dialect.IsUnreachable(err) {
			t.Errorf("%s: the server has judged it: %v", statement, err)
		}
	}
	if _, err := db.ExecContext(t.Context(), `SELECT * FROM nothing`); !dialect.IsMissingTable(err) {
		t.Errorf("a missing table: %v", err)
	}
}

func TestMySQLClassifyNumbers(t *testing.T) {
	t.Parallel()
	for class, numbers := range map[dialect.Class][]uint16{
		dialect.Conflict: {1205, 1213},
		dialect.Data:     {1048, 1062, 1264, 1292, 1366, 1406, 1451, 1452, 3140, 4025, 3819},
		dialect.Canceled: {1317, 1969, 3024},
		dialect.Outage:   {1290, 1792, 1836, 1021, 1114, 1040, 1203, 1045, 1146, 1053},
	} {
		for _, n := range numbers {
			err := fmt.Errorf("wrapped: %w", &mysql.MySQLError{Number: n})
			if have := dialect.Classify(err); have != class {
				t.Errorf("error %d: class %v, want %v", n, have, class)
			}
		}
	}
	for _, n := range []uint16{1040, 1203, 1021, 1114, 1053} {
		if !dialect.IsUnreachable(&mysql.MySQLError{Number: n}) {
			t.Errorf("error %d means that the server is away", n)
		}
	}
	for _, err := range []error{mysql.ErrInvalidConn, fmt.Errorf("call: %w", mysql.ErrInvalidConn)} {
		if dialect.Classify(err) != dialect.Outage || !dialect.IsUnreachable(err) {
			t.Errorf("%v is an outage", err)
		}
	}
	if dialect.Classify(mysql.ErrPktTooLarge) != dialect.Data {
		t.Error("too large a message is no outage")
	}
}
