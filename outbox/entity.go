package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-go/lockstep/event"
)

// Entity is one table whose rows are sent to replicas.
type Entity struct {
	// ID is the entity's name on the wire: django-cqrs's CQRS_ID, also the topic
	// its events are sent on. Required, and unique in a Config.
	ID string
	// Table is the table's name, with its schema where the search path does not
	// find it. Required. It needs the columns cqrs_revision and cqrs_updated;
	// `relay migrate table` prints the lines that add them. Entities may share a
	// table, with different Where or Fields for example. They share its revisions
	// then, too: what raises them for one is a gap to the other's replicas.
	Table string
	// Key is the column that identifies a row: integers, text, UUIDs. A type whose
	// values are kept in another form than they are sent in is refused: on SQLite
	// dates, times, booleans and blobs, on MySQL these and decimals, on PostgreSQL bytea,
	// json and arrays. Rows in which it is null are not sent. Default "id".
	Key string
	// Keys, in place of Key, are the columns that identify a row together. A key is
	// passed as a [Composite]; on the wire it is one text, the JSON array of the
	// columns' texts: ["eu","7"]. A unique index over these columns is needed.
	Keys []string
	// Fields are the columns that are sent, in this order. The key must be among
	// them; cqrs_revision and cqrs_updated are always sent and must not be.
	// Default: every column the table has when it is first used; one that is
	// added later is sent after a restart.
	Fields []string
	// Tracked are columns whose previous values travel along, as previous_data;
	// [TrackAll] stands for all Fields. Call [Tx.Track] before a change. Default:
	// none, and previous_data is null.
	Tracked []string
	// Where is an SQL condition over the table's columns, such as "balance >= 0",
	// that a row must fulfil to be sent. A row that enters it is sent, one that
	// leaves it is sent as Leave says, one that never was in it is not sent; its
	// revision counts all the same. It goes into the statements as it is: never
	// make it of what users enter. Default: all rows.
	Where string
	// Leave says what is sent of a row that leaves Where. Default LeaveDelete.
	Leave Leave
	// Serialize makes the data that are sent, for all rows of a flush at once; it
	// may read related rows in the transaction. It returns, by [Instance.Key],
	// anything that is encoded as a JSON object, for every row it was given;
	// cqrs_revision and cqrs_updated are added. Default: the Fields.
	Serialize func(ctx context.Context, tx *Tx, rows []Instance) (map[string]any, error)
	// DeleteData makes data that a DELETE carries under "custom", for all rows of
	// a call at once and before they are deleted. It returns them by
	// [Instance.Key]; a row it leaves out has none. Default: none.
	DeleteData func(ctx context.Context, tx *Tx, rows []Instance) (map[string]any, error)
	// Meta makes the event's meta. Default Config.Meta.
	Meta func(ctx context.Context, row Instance) (map[string]any, error)
	// Decimals says how numeric columns are sent. Default DecimalNumber.
	Decimals Decimals
	// NonFinite says what becomes of values that JSON has none for: NaN and the
	// infinities of numbers and times. Default NonFiniteNull.
	NonFinite NonFinite
	// TTL is how long an event is of use; a replica puts a later one among its
	// dead letters. Whole seconds. Default 0: for ever.
	TTL time.Duration
	// Muted sends nothing, while revisions are counted and deletions remembered, so
	// that replicas find no gap in the order later.
	Muted bool
}

// TrackAll among [Entity.Tracked] stands for all Fields.
const TrackAll = "*"

// Leave says what is sent of a row that leaves [Entity.Where].
type Leave string

// What is sent of a row that leaves.
const (
	LeaveDelete   Leave = "delete" // a DELETE: replicas do not keep the row
	LeaveSilently Leave = "silent" // nothing, as django-cqrs does: replicas keep its last state
)

// Decimals says how numeric columns are sent.
type Decimals string

// Both have all digits. Readers that take JSON numbers for floating-point ones
// lose some of the first.
const (
	DecimalNumber Decimals = "number"
	DecimalString Decimals = "string"
)

// NonFinite says what becomes of NaN and infinities.
type NonFinite string

// What becomes of them.
const (
	NonFiniteNull  NonFinite = "null"
	NonFiniteError NonFinite = "error" // the flush is a [RowError] that names the column, also of an array
)

// Instance is a row as the functions of an [Entity] get it.
type Instance struct {
	// Entity is the ID of the row's entity.
	Entity string
	// Key is the key's text.
	Key string
	// Signal is what the event says.
	Signal event.Signal
	// Revision is the event's.
	Revision int64
	// Data are the row's Fields. Meta gets the data as they are sent, with the
	// version and what Serialize or DeleteData made.
	Data json.RawMessage
	// Previous is the event's previous_data; nil is null. Only Meta gets it.
	Previous json.RawMessage
}

// keyColumns are the columns of the key.
func (e *Entity) keyColumns() []string {
	if len(e.Keys) > 0 {
		return e.Keys
	}
	return []string{e.Key}
}

// faults reports what is wrong with an entity without looking at a database.
func (e *Entity) faults() (faults []error) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if e.Table == "" {
		fault("no Table: name the table its rows are in")
	}
	names := slices.Concat([]string{e.Table}, e.keyColumns(), e.Fields, e.Tracked)
	for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
		if i := strings.IndexFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }); i >= 0 {
			fault("name %q contains a control character: no table or column is called so", name)
		}
	}
	faults = append(faults, e.columnFaults()...)
	if e.TTL < 0 || e.TTL%time.Second != 0 {
		fault("TTL is %v: use whole seconds, or 0 for ever", e.TTL)
	}
	if err := checkCondition(e.Where); err != nil {
		fault("Where: %w", err)
	}
	choice := func(field, value string, choices ...string) {
		if value != "" && !slices.Contains(choices, value) {
			fault("%s is %q: use %s", field, value, strings.Join(choices, " or "))
		}
	}
	choice("Leave", string(e.Leave), string(LeaveDelete), string(LeaveSilently))
	choice("Decimals", string(e.Decimals), string(DecimalNumber), string(DecimalString))
	choice("NonFinite", string(e.NonFinite), string(NonFiniteNull), string(NonFiniteError))
	return faults
}

func (e *Entity) columnFaults() (faults []error) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	list := func(field string, names []string) map[string]bool {
		seen := map[string]bool{}
		for _, name := range names {
			switch {
			case name == "":
				fault("an empty name in %s", field)
			case name == event.FieldRevision || name == event.FieldUpdated:
				fault("field %q is always sent: leave it out of %s", name, field)
			case seen[name]:
				fault("field %q is named twice in %s", name, field)
			}
			seen[name] = true
		}
		return seen
	}
	sent := list("Fields", e.Fields)
	list("Tracked", e.Tracked)
	list("Keys", e.Keys)
	if len(e.Tracked) > 1 && slices.Contains(e.Tracked, TrackAll) {
		fault("Tracked has %q, which stands for all, and names beside it", TrackAll)
	}
	if e.Key != "" && len(e.Keys) > 0 {
		fault("Key and Keys are both set: use one")
	}
	for _, key := range e.keyColumns() {
		if len(e.Fields) > 0 && !sent[key] && key != "" {
			fault("key %q is not in Fields: add it, replicas need it", key)
		}
	}
	return faults
}

// checkCondition refuses what could end a condition before its end or be more
// than one: it is put between parentheses. The database checks the rest.
func checkCondition(where string) error {
	depth := 0
	for i := 0; i < len(where); i++ {
		c := where[i]
		next := byte(0)
		if i+1 < len(where) {
			next = where[i+1]
		}
		switch {
		case c == '\'' || c == '"':
			end := strings.IndexByte(where[i+1:], c)
			if end < 0 {
				return fmt.Errorf("%c is not closed", c)
			}
			if strings.IndexByte(where[i+1:i+1+end], '\\') >= 0 {
				return errors.New(`a \ within quotes is not the same in every database: do without it`)
			}
			i += end + 1
		case c == 0 || c == ';' || c == '$' || c == '\\':
			return fmt.Errorf("%q has no place in a condition", c)
		case c == '-' && next == '-', c == '/' && next == '*', c == '#' && next != '>' && next != '-':
			return errors.New("a comment has no place in a condition")
		case c == '(':
			depth++
		case c == ')':
			depth--
		}
		if depth < 0 {
			return errors.New("a parenthesis is closed that was not opened")
		}
	}
	if depth > 0 {
		return errors.New("a parenthesis is not closed")
	}
	return nil
}
