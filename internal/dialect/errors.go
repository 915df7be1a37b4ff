package dialect

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"github.com/go-sql-driver/mysql"
)

// Class says whose fault a database error is.
type Class int

const (
	// Outage means that the database is away, full, read-only, overloaded or not set up.
	// It says nothing about the data; the same call may succeed later.
	Outage Class = iota
	// Conflict means a deadlock or a serialization failure. Run the transaction again.
	Conflict
	// Data means that the values do not fit: wrong type, too long, out of range, null where
	// none may be, a constraint. Only other values will do.
	Data
	// Canceled means that the caller's context ended.
	Canceled
)

// sqlStater is implemented by the errors of lib/pq and of pgx.
type sqlStater interface {
	error
	SQLState() string
}

// sqliteCoder is implemented by the errors of modernc.org/sqlite.
type sqliteCoder interface {
	error
	Code() int
}

// Classify tells whose fault err is. An error it does not know is an Outage,
// because waiting loses nothing and giving up on a message might.
func Classify(err error) Class {
	var state sqlStater
	var code sqliteCoder
	switch {
	case errors.As(err, &state):
		return classifyState(state.SQLState())
	case isSignal(err):
		return Data
	case mysqlNumber(err) != 0:
		return classifyMySQL(mysqlNumber(err))
	case errors.Is(err, mysql.ErrPktTooLarge):
		return Data
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return Canceled
	case errors.Is(err, driver.ErrBadConn), errors.Is(err, sql.ErrConnDone):
		return Outage
	case errors.As(err, &code):
		return classifySQLite(code.Code())
	}
	return Outage
}

// classifyState follows PostgreSQL's appendix A (error codes).
func classifyState(state string) Class {
	switch state {
	case "40001", "40P01", "55P03":
		return Conflict
	case "57014": // query_canceled: by our context or by statement_timeout
		return Canceled
	case "0A000": // feature_not_supported
		return Data
	case "42601", "42602", "42622": // syntax, name: our statements have none; input of tsvector, ltree, jsonpath
		return Data
	}
	switch class := state[:min(2, len(state))]; class {
	case "21", "22", "23", "44", "54": // cardinality, data, integrity, check option, a limit (size, depth)
		return Data
	case "P0", "09", "20", "27", "38", "39": // raised or caused by a trigger
		return Data
	default:
		if len(class) == 2 && !strings.Contains(postgresClasses, class) {
			return Data // a trigger's own code
		}
	}
	return Outage
}

// postgresClasses are the classes of PostgreSQL's codes beside those of Data.
const postgresClasses = "00 01 02 03 08 0A 0B 0F 0L 0P 0Z 24 25 26 28 2B 2D 2F 34 3B 3D 3F 40 42 53 55 57 58 72 F0 HV XX"

// classifySQLite follows https://www.sqlite.org/rescode.html; the low byte is
// the primary code.
func classifySQLite(code int) Class {
	switch code & 0xff {
	case 5, 6: // BUSY, LOCKED
		return Conflict
	case 18, 19, 20, 25: // TOOBIG, CONSTRAINT, MISMATCH, RANGE
		return Data
	case 9: // INTERRUPT
		return Canceled
	}
	return Outage
}

// IsBadValue reports whether err says that a value could not be converted to a
// column's type or is out of its range.
func IsBadValue(err error) bool {
	var state sqlStater
	if !errors.As(err, &state) {
		return isBadMySQLValue(mysqlNumber(err))
	}
	s := state.SQLState()
	return strings.HasPrefix(s, "22") || classifyState(s) == Data && strings.HasPrefix(s, "42")
}

// ConstraintOf returns the name of the constraint that err reports as violated,
// where the driver tells: lib/pq does.
func ConstraintOf(err error) string { return fieldOf(err, 'n') }

// ColumnOf returns the name of the column that err is about, where the server and
// the driver tell.
func ColumnOf(err error) string {
	if name := fieldOf(err, 'c'); name != "" {
		return name
	}
	return mysqlColumnOf(err)
}

// fieldOf follows PostgreSQL's protocol, "error and notice message fields".
func fieldOf(err error, field byte) string {
	var fields interface {
		error
		Get(field byte) string
	}
	if !errors.As(err, &fields) {
		return ""
	}
	return fields.Get(field)
}

// IsStale reports whether err may come from a prepared statement that does not fit
// its tables any more or that the server does not know: it is worth a try to
// prepare it anew.
func IsStale(err error) bool {
	var state sqlStater
	if !errors.As(err, &state) {
		n := mysqlNumber(err)         // SQLite prepares anew by itself
		return n == 1243 || n == 1615 // ER_UNKNOWN_STMT_HANDLER, ER_NEED_REPREPARE
	}
	s := state.SQLState()
	return s == "0A000" || s == "26000" || strings.HasPrefix(s, "42")
}

// IsForeignSession reports whether err comes from a prepared statement of another
// session, as behind a pooler that hands out PostgreSQL's sessions by the transaction:
// one that does not exist, or whose name is taken.
func IsForeignSession(err error) bool {
	var state sqlStater
	return errors.As(err, &state) && (state.SQLState() == "26000" || state.SQLState() == "42P05")
}

// IsNoSuchKey reports whether err is that of [EntitySQL].SaveOne for a key without
// a row. The names stand in the message whatever its language is.
func IsNoSuchKey(err error) bool {
	var state sqlStater
	return errors.As(err, &state) && state.SQLState() == "23502" &&
		strings.Contains(err.Error(), `"key"`) && strings.Contains(err.Error(), `"outbox"`)
}

// IsNoTransaction reports whether PostgreSQL says that there is no transaction,
// where there should be one.
func IsNoTransaction(err error) bool {
	var state sqlStater
	return errors.As(err, &state) && state.SQLState() == "25P01" // no_active_sql_transaction
}

// tooLarge stands in the error of a statement that made an event which is too
// large, before its size and its key.
const tooLarge = "lockstep: too large: "

// TooLarge reports whether err says that an event is larger than MaxPayload, and
// its size and key. They are a value that PostgreSQL quotes, whatever its
// messages' language is.
func TooLarge(err error) (size int64, key string, ok bool) {
	var state sqlStater
	if !errors.As(err, &state) || state.SQLState() != "22P02" {
		return 0, "", false
	}
	_, value, found := strings.Cut(err.Error(), tooLarge)
	text, key, _ := strings.Cut(value, " ")
	size, parsed := strconv.ParseInt(text, 10, 64)
	if end := strings.LastIndexAny(key, "\"»“”"); end >= 0 {
		key = key[:end]
	}
	return size, key, found && parsed == nil
}

// IsUnreachable reports whether err came up without the server having judged the
// call: it could not be reached, broke off, is starting, stopping or full. Unlike
// [Outage] it leaves out what only an operator's correction mends.
func IsUnreachable(err error) bool {
	var state sqlStater
	var code sqliteCoder
	switch {
	case err == nil, errors.Is(err, ErrNoTable):
		return false
	case errors.As(err, &state):
		s := state.SQLState()
		return strings.HasPrefix(s, "08") || strings.HasPrefix(s, "53") || strings.HasPrefix(s, "57P")
	case mysqlNumber(err) != 0:
		return isMySQLAway(mysqlNumber(err))
	case errors.As(err, &code):
		return code.Code()&0xff == 5 // BUSY
	}
	return true
}

// IsMissingTable reports whether err says that a table does not exist.
func IsMissingTable(err error) bool {
	var state sqlStater
	if errors.As(err, &state) {
		return state.SQLState() == "42P01"
	}
	if n := mysqlNumber(err); n != 0 {
		return n == 1146 // ER_NO_SUCH_TABLE
	}
	// SQLite has one code for every mistake in a statement, so its text has to tell.
	var code sqliteCoder
	return errors.As(err, &code) && strings.Contains(err.Error(), "no such table")
}

// IsAway reports whether err says by itself that the database is gone, full,
// read-only or shutting down. An error that it does not know is not, so it can
// be asked about an error that may be somebody else's, such as a handler's.
func IsAway(err error) bool {
	var state sqlStater
	var code sqliteCoder
	switch {
	case err == nil:
		return false
	case errors.As(err, &state):
		s := state.SQLState()
		for _, class := range []string{"08", "53", "57P", "58", "25006"} { // connection, resources, operator, system, read-only
			if strings.HasPrefix(s, class) {
				return true
			}
		}
		return false
	case errors.As(err, &code):
		switch code.Code() & 0xff {
		case 8, 10, 13, 14: // READONLY, IOERR, FULL, CANTOPEN
			return true
		}
		return false
	}
	if n := mysqlNumber(err); n != 0 {
		return isMySQLAway(n) || n == 1290 || n == 1836 // read-only
	}
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) || errors.Is(err, mysql.ErrInvalidConn)
}

// WithCause adds why ctx has ended to an error of what was done with it. A driver
// may only say that a connection is bad or a statement was canceled, and
// database/sql that the transaction is over.
func WithCause(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	for _, why := range []error{context.Cause(ctx), ctx.Err()} {
		if !errors.Is(err, why) {
			err = fmt.Errorf("%w: %w", why, err)
		}
	}
	return err
}

// IsConnection reports whether err is one that a lost connection leaves behind.
// Only of an error that came out of a call to the database does that say
// anything.
func IsConnection(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false // a deadline is a net.Error, too
	}
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) || errors.Is(err, mysql.ErrInvalidConn)
}

// IsDenied reports whether err says that MySQL's account lacks a privilege of the
// whole server.
func IsDenied(err error) bool { return mysqlNumber(err) == 1227 } // ER_SPECIFIC_ACCESS_DENIED_ERROR

// IsForbidden reports whether the account lacks the right to do what it did to a table.
func IsForbidden(err error) bool {
	var state sqlStater
	if errors.As(err, &state) {
		return state.SQLState() == "42501" // insufficient_privilege
	}
	switch mysqlNumber(err) {
	case 1044, 1142, 1143: // ER_DBACCESS_DENIED_ERROR, ER_TABLEACCESS_DENIED_ERROR, ER_COLUMNACCESS_DENIED_ERROR
		return true
	}
	return false
}

// IsMissingParent reports whether err says that a foreign key's row is not there
// or, of a DELETE, that rows refer to the one deleted.
func IsMissingParent(err error) bool {
	var state sqlStater
	var code sqliteCoder
	switch {
	case errors.As(err, &state):
		return state.SQLState() == "23503" // foreign_key_violation
	case mysqlNumber(err) != 0:
		return mysqlNumber(err) == 1452 || mysqlNumber(err) == 1216 // ER_NO_REFERENCED_ROW_2, ER_NO_REFERENCED_ROW
	case errors.As(err, &code):
		return code.Code() == 787 // SQLITE_CONSTRAINT_FOREIGNKEY
	}
	return false
}

// IsReferred reports whether err says of a DELETE that rows refer to those deleted.
func IsReferred(err error) bool {
	var state sqlStater
	var code sqliteCoder
	switch {
	case errors.As(err, &state):
		return state.SQLState() == "23503" || state.SQLState() == "23001" // foreign_key_violation, restrict_violation
	case mysqlNumber(err) != 0:
		return mysqlNumber(err) == 1451 || mysqlNumber(err) == 1217 // ER_ROW_IS_REFERENCED_2, ER_ROW_IS_REFERENCED
	case errors.As(err, &code):
		return code.Code() == 787 || code.Code() == 1811 // SQLITE_CONSTRAINT_FOREIGNKEY, and _TRIGGER: ON DELETE RESTRICT
	}
	return false
}

// IsTaken reports whether PostgreSQL refused a value because another row has it, or
// has one that it may not meet.
func IsTaken(err error) bool {
	var state sqlStater
	return errors.As(err, &state) && (state.SQLState() == "23505" || state.SQLState() == "23P01") // unique, exclusion
}

// IsDuplicate reports whether MySQL refused a value because a unique index has it.
func IsDuplicate(err error) bool { return mysqlNumber(err) == 1062 }
