package dialect

import (
	"strings"

	"github.com/lockstep-go/lockstep/event"
)

// AllOutbox reads the whole outbox in order, on every database. Its columns are
// to be told by their names.
const AllOutbox = `SELECT * FROM outbox ORDER BY id`

// Nothing is a statement without effect, on every database.
const Nothing = `SELECT 1`

// KeyFault says why a column cannot be one of a master's key, with the remedy, and
// nothing if it can be.
func (n Name) KeyFault(c Column) string {
	switch n {
	case MySQL:
		return mysqlKeyFault(c)
	case SQLite:
		return sqliteKeyFault(c)
	case Postgres:
		if c.Base == "bytea" || strings.HasPrefix(c.Base, "json") || strings.HasSuffix(c.Base, "]") {
			return "is " + c.Type + ": make it text, uuid or an integer"
		}
	}
	return ""
}

// EntityTable is what the statements about one entity are built from.
type EntityTable struct {
	CQRSID string
	Table  string
	// Keys are the columns of the key, one or more.
	Keys []Column
	// Fields are what is sent, Tracked what previous values are wanted of.
	Fields, Tracked []Column
	// TTL is how many seconds an event lives; 0 means for ever.
	TTL int64
	// Where is a condition on a row, as SQL; rows outside are not sent.
	Where string
	// LeaveSilently: a row that leaves Where is not sent as a DELETE.
	LeaveSilently bool
	// Muted: revisions are raised and nothing is sent.
	Muted bool
	// DecimalText: numeric columns are sent as strings.
	DecimalText bool
	// FiniteOnly: a row with a NaN or an infinity is an error.
	FiniteOnly bool
	// Correlated: the envelope's correlation_id is the statement's last parameter.
	Correlated bool
	// MaxPayload is how many bytes an event may have.
	MaxPayload int64
	// DeletedRows: a deletion returns the row's fields, too.
	DeletedRows bool
}

// Operation is one of the things that are done to an entity's rows, in the two
// ways to do it.
type Operation struct {
	// Record changes the rows and inserts their events. It takes the keys and the
	// event ids as lists, the other metadata as a JSON object unless the entity is
	// muted, and the correlation id if there is one, and returns the
	// event ids of the rows it found. An event over MaxPayload makes it fail: see
	// [TooLarge]. Only PostgreSQL has it.
	Record string
	// Change changes the rows and returns them, so that their events can be made
	// in the process.
	Change string
	// Lock, Write and After are on MySQL what Change is by itself elsewhere: Lock
	// returns which of the keys there are, Write changes the rows before Change reads
	// them, After is for what has to come behind it. Each may be missing.
	Lock, Write, After string
}

// EntitySQL is the write side's statements for one entity. Keys are one list
// parameter; event order is the list's.
type EntitySQL struct {
	Save, Delete, Deleting Operation
	// SaveOne is Save.Record for one key and its metadata, each a plain parameter.
	// Its error is one of IsNoSuchKey when there is no such key. PostgreSQL only, and
	// only where all rows are sent.
	SaveOne string
	// Sync takes rows as they are. Its Record has the topic and the metadata as
	// parameters, too, before the correlation id.
	Sync Operation
	// Known remembers of rows without an event that replicas got a SYNC of them, so
	// that they are told when such a row leaves Where. Empty where nobody is told.
	Known string
	// Remove deletes the rows and records nothing.
	Remove string
	// Same returns for each key in its order the place, from 1, of the first that the
	// column's type takes for equal. PostgreSQL only.
	Same string
	// Track locks the rows and returns their tracked columns.
	Track string
	// Tombstones returns on MySQL what is known of the keys' earlier rows.
	Tombstones string
	// Check fails if Where is not a condition on the table's rows.
	Check string
}

// keyNamedID reports whether a column of the key has the name under which a
// DELETE carries the key.
func (e EntityTable) keyNamedID() bool {
	for _, k := range e.Keys {
		if k.Name == event.FieldDeletedKey {
			return true
		}
	}
	return false
}
