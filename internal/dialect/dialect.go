// Package dialect holds what differs between databases: all SQL text, how
// identifiers are quoted, what a table's catalogue entry says, and what an error
// means. Nothing here decides what to do; outbox, relay and consumer do.
package dialect

import (
	"context"
	"database/sql"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// Name says which database's SQL is spoken. The zero value is none.
type Name string

// The databases Lockstep speaks to.
const (
	Postgres Name = "postgres"
	// MySQL is MySQL from 8.0.20 and MariaDB from 10.6.
	MySQL  Name = "mysql"
	SQLite Name = "sqlite"
)

// Known lists the names, for error messages.
const Known = "postgres, mysql, sqlite"

// Valid reports whether n is a name of this package.
func (n Name) Valid() bool { return n == Postgres || n == MySQL || n == SQLite }

// Querier is what *sql.DB, *sql.Conn and *sql.Tx have in common.
type Querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// Detect tells the dialect from the driver's package. It knows lib/pq, pgx's
// stdlib, go-sql-driver/mysql, modernc.org/sqlite and mattn/go-sqlite3; for a
// wrapped driver it returns an error that asks for an explicit name.
func Detect(db *sql.DB) (Name, error) {
	t := reflect.TypeOf(db.Driver())
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	path := t.PkgPath()
	switch {
	case strings.Contains(path, "lib/pq"), strings.Contains(path, "jackc/pgx"):
		return Postgres, nil
	case strings.Contains(path, "go-sql-driver/mysql"):
		return MySQL, nil
	case strings.Contains(path, "sqlite"):
		return SQLite, nil
	}
	return "", fmt.Errorf("cannot tell the database from driver %s: set Config.Dialect to one of %s", t, Known)
}

// IsLibPQ reports whether the driver is lib/pq itself, not wrapped in another.
func IsLibPQ(db *sql.DB) bool {
	t := reflect.TypeOf(db.Driver())
	return t.Kind() == reflect.Pointer && t.Elem().PkgPath() == "github.com/lib/pq"
}

// Quote quotes an identifier. A dot separates a schema from a name:
// billing.accounts becomes "billing"."accounts", or `billing`.`accounts` on MySQL,
// which takes backticks in every SQL mode.
func (n Name) Quote(identifier string) string {
	parts := strings.Split(identifier, ".")
	for i, p := range parts {
		parts[i] = n.QuoteColumn(p)
	}
	return strings.Join(parts, ".")
}

// QuoteAll quotes single identifiers, which may contain dots, as a list for SQL,
// each after the prefix (an alias with its dot, or nothing).
func (n Name) QuoteAll(prefix string, identifiers []string) []string {
	quoted := make([]string, len(identifiers))
	for i, id := range identifiers {
		quoted[i] = prefix + n.QuoteColumn(id)
	}
	return quoted
}

// QuoteColumn quotes an identifier that has no schema.
func (n Name) QuoteColumn(name string) string {
	if n == MySQL {
		return "`" + strings.ReplaceAll(name, "`", "``") + "`"
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

// QuoteText quotes a string constant. Values of messages and rows never go this
// way, they are parameters; names from the configuration do.
func (n Name) QuoteText(s string) string {
	if n == MySQL {
		return mysqlText(s)
	}
	if n == Postgres && strings.Contains(s, `\`) { // the same whatever standard_conforming_strings says
		return ` E'` + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(s) + `'`
	}
	return `'` + strings.ReplaceAll(s, `'`, `''`) + `'`
}

// IDs encodes row ids as the one parameter that this dialect's statements take
// for a list: an array on PostgreSQL, a JSON array elsewhere.
func (n Name) IDs(ids []int64) string {
	open, end := byte('{'), byte('}')
	if n != Postgres {
		open, end = '[', ']'
	}
	b := make([]byte, 0, 2+len(ids)*8)
	b = append(b, open)
	for i, id := range ids {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, id, 10)
	}
	return string(append(b, end))
}

// Texts encodes strings as the one parameter that this dialect's statements
// take for a list.
func (n Name) Texts(texts []string) string {
	open, end := byte('{'), byte('}')
	if n != Postgres {
		open, end = '[', ']'
	}
	b := []byte{open}
	for i, s := range texts {
		if i > 0 {
			b = append(b, ',')
		}
		b = n.appendText(b, s)
	}
	return string(append(b, end))
}

func itoa(n int) string { return strconv.Itoa(n) }
