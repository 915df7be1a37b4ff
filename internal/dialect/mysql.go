package dialect

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"

	"github.com/go-sql-driver/mysql"
)

// Over returns q as the statements of this dialect need it. Those of MySQL, which
// knows no numbered parameters, are written with them all the same (?1, ?2, …) so
// that every dialect's take the same arguments; they are put in order here.
func (n Name) Over(q Querier) Querier {
	if n == MySQL {
		return numbered{q}
	}
	return q
}

// numbered executes statements with numbered parameters.
type numbered struct{ Querier }

func (q numbered) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	query, args = inOrder(query, args)
	return q.Querier.ExecContext(ctx, query, args...)
}

func (q numbered) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	query, args = inOrder(query, args)
	return q.Querier.QueryContext(ctx, query, args...)
}

func (q numbered) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	query, args = inOrder(query, args)
	return q.Querier.QueryRowContext(ctx, query, args...)
}

// inOrder replaces ?1, ?2, … by ? and returns the arguments as they stand in the
// query. A mark without a number of an argument stays as it is.
func inOrder(query string, args []any) (string, []any) {
	var b strings.Builder
	ordered := make([]any, 0, len(args))
	for {
		head, tail, found := strings.Cut(query, "?")
		b.WriteString(head)
		if !found {
			return b.String(), ordered
		}
		b.WriteByte('?')
		digits := len(tail) - len(strings.TrimLeft(tail, "0123456789"))
		query = tail
		if number, err := strconv.Atoi(tail[:digits]); err == nil && number >= 1 && number <= len(args) {
			ordered = append(ordered, args[number-1])
			query = tail[digits:]
		}
	}
}

// mysqlText quotes a constant so that it means the same in every SQL mode and
// character set of a session: what is more than plain ASCII goes as bytes.
func mysqlText(s string) string {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' || s[i] == '\\' {
			return "_utf8mb4 0x" + hex.EncodeToString([]byte(s))
		}
	}
	return `'` + strings.ReplaceAll(s, `'`, `''`) + `'`
}

// mysqlColumns: MariaDB's json is a longtext with a check; /*M! … */ is for it
// alone, since MySQL's constraints do not name their table there. A generated
// column has an expression; a default that is an expression is another thing.
// MariaDB spells a missing default NULL.
const mysqlColumns = `
SELECT c.column_name,
       c.column_type,
       CASE WHEN EXISTS (
           SELECT 1 FROM information_schema.check_constraints k
           WHERE k.constraint_schema = c.table_schema AND k.constraint_name = c.column_name /*M! AND k.table_name = c.table_name */
             AND (k.check_clause LIKE CONCAT('json_valid(_', c.column_name, '_)') -- in either kind of quotes
                  OR k.check_clause = CONCAT('json_valid("', REPLACE(c.column_name, '"', '""'), '")'))
       ) THEN 'json' ELSE c.data_type END,
       c.is_nullable = 'NO',
       (c.column_default IS NOT NULL AND c.column_default <> 'NULL') OR c.extra LIKE '%auto_increment%',
       COALESCE(c.generation_expression, '') <> '',
       COALESCE((SELECT s.seq_in_index FROM information_schema.statistics s
                 WHERE s.table_schema = c.table_schema AND s.table_name = c.table_name
                   AND s.index_name = 'PRIMARY' AND s.column_name = c.column_name), 0),
       EXISTS (SELECT 1 FROM information_schema.statistics s
               WHERE s.table_schema = c.table_schema AND s.table_name = c.table_name
                 AND s.non_unique = 0 AND s.column_name = c.column_name AND s.sub_part IS NULL
                 AND NOT EXISTS (SELECT 1 FROM information_schema.statistics o
                                 WHERE o.table_schema = s.table_schema AND o.table_name = s.table_name
                                   AND o.index_name = s.index_name AND o.seq_in_index = 2)),
       COALESCE(c.collation_name, ''),
       ''
FROM information_schema.columns c
WHERE c.table_schema = COALESCE(?, DATABASE()) AND c.table_name = ?
ORDER BY c.ordinal_position`

// mysqlNumber returns the number of a server's error, 0 for any other error.
func mysqlNumber(err error) uint16 {
	var e *mysql.MySQLError
	if errors.As(err, &e) {
		return e.Number
	}
	return 0
}

// isSignal reports whether a trigger or procedure has raised err by SIGNAL with the
// state for that, whatever its number is.
func isSignal(err error) bool {
	var e *mysql.MySQLError
	return errors.As(err, &e) && string(e.SQLState[:2]) == "45"
}

// classifyMySQL follows the servers' lists of errors. Numbers from 1900 to 1999
// and from 4000 are MariaDB's own, those from 3000 MySQL's.
func classifyMySQL(number uint16) Class {
	switch number {
	case 1205, 1213, // lock wait timeout, deadlock
		1020,       // the row has changed since it was read (MariaDB, innodb_snapshot_isolation)
		3572, 4045: // NOWAIT
		return Conflict
	case 1317, 1969, 3024: // KILL QUERY, MariaDB's and MySQL's statement time
		return Canceled
	case 1048, 1364, // null, or no value, where there must be one
		1062, 1169, 1557, 1586, 1761, 1762, // unique
		1216, 1217, 1451, 1452, // foreign key
		3819, 4025, // check
		1139, 1153, 1210, 1242, 1301, 1690, 1748, 1367, // pattern, size, argument, cardinality, range, partition
		1071, 1118, 1436, // a limit: key, row, depth
		1416, 1644, 3037, 4077, 4079, // geometry, SIGNAL, casts
		1365: // division by zero
		return Data
	case 3140, 3141, 3143, 3144, 3146, 3147, 3149, 3150, 3151, 3156, 3157, 3158, // JSON
		4036, 4037, 4038, 4039, 4040, 4041, 4042:
		return Data
	}
	if isBadMySQLValue(number) {
		return Data
	}
	return Outage
}

// EndsTransaction reports whether MySQL has, or may have, rolled back the whole
// transaction with this error. What is run in it afterwards would be committed
// at once, each statement by itself.
func EndsTransaction(err error) bool {
	switch mysqlNumber(err) {
	case 1213, 1205, 1020: // deadlock; lock wait timeout, as the server is configured; changed since it was read
		return true
	}
	return false
}

// isBadMySQLValue knows the errors about one value and its column: too long,
// out of range, not of the type, no such character, malformed JSON.
func isBadMySQLValue(number uint16) bool {
	switch number {
	case 1264, 1265, 1292, 1300, 1366, 1406, 1411, 1441, 1525, 3140, 3988, 4078:
		return true
	}
	return false
}

// isMySQLAway knows the errors of a server that has not judged the call.
func isMySQLAway(number uint16) bool {
	switch number {
	case 1040, 1203, 1226, // too many connections
		1053, 1077, 1079, 1927, 3169, // shutting down, killed
		1021, 1037, 1038, 1041, 1114, 1135: // disk, memory
		return true
	}
	return false
}

// mysqlColumnOf returns the column that an error names, which it does in its text
// only; empty where it does not.
func mysqlColumnOf(err error) string {
	var e *mysql.MySQLError
	if !errors.As(err, &e) {
		return ""
	}
	_, rest, found := strings.Cut(e.Message, "olumn ") // "for column", "Column"
	if !found || rest == "" || !strings.ContainsRune("'`\"", rune(rest[0])) {
		return ""
	}
	name, _, _ := strings.Cut(rest, " ")
	name = name[strings.LastIndexByte(name, '.')+1:] // MariaDB: `db`.`table`.`column`
	return strings.Trim(name, "'`\"")
}
