package consumer

import (
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// replica is a registered table with what the catalogue says about it: all that
// is needed to turn an event's data into a row.
type replica struct {
	entity *entity
	dialect.Replica
	place int // in the order of registration

	// fields leads from a wire field to its slot: slotKey, or slotColumn plus the
	// index in Columns, or slotRevision, slotUpdated.
	fields map[string]int
	wire   []string // wire fields by slot
	// parents are the foreign keys whose columns are all mapped.
	parents []parent
	// goesWith are the replicas' tables whose rows take rows of this one along when they
	// are deleted, by ON DELETE CASCADE.
	goesWith []string
	// sweeps: rows of some replica go with those of this one.
	sweeps bool
	// outdated: the catalogue was read again since, and says something else. Only
	// the goroutine that uses the engine knows.
	outdated bool
}

// Slots of a row's raw values. The columns follow.
const (
	slotRevision = iota
	slotUpdated
	slotKey
	slotColumn
)

// column returns the column behind a slot from slotKey on.
func (r *replica) column(slot int) *dialect.Column {
	if slot == slotKey {
		return &r.Key
	}
	return &r.Columns[slot-slotColumn]
}

func (r *replica) slots() int { return slotColumn + len(r.Columns) }

// values sorts the members of an event's data into slots; of members with one
// name the last counts. Slots without a member stay nil.
func (r *replica) values(data []byte, into [][]byte) {
	for name, value := range event.Members(data) {
		if slot, ok := r.fields[string(name)]; ok {
			into[slot] = value
		}
	}
}

// keySlots returns the slots of the key's columns.
func (r *replica) keySlots() []int {
	slots := []int{slotKey}
	for _, i := range r.Rest {
		slots = append(slots, slotColumn+i)
	}
	return slots
}

// deletedKey finds the key in a DELETE's data where it has not its own name:
// django-cqrs calls it id whatever the key column is called.
func deletedKey(data []byte) (key []byte) {
	for name, value := range event.Members(data) {
		if string(name) == event.FieldDeletedKey {
			key = value
		}
	}
	return key
}

// keyOf returns the canonical key of values by slot: that of the one column, or
// the JSON array of those of several.
func (r *replica) keyOf(values [][]byte) string {
	if len(r.Rest) == 0 {
		return canonicalKey(&r.Key, values[slotKey])
	}
	b := []byte{'['}
	for n, slot := range r.keySlots() {
		if n > 0 {
			b = append(b, ',')
		}
		b = event.AppendString(b, canonicalKey(r.column(slot), values[slot]))
	}
	return string(append(b, ']'))
}

// canonicalKey returns one text for all spellings of a key that Go can tell to
// be equal. Spellings it cannot tell are left to the database.
func canonicalKey(column *dialect.Column, raw []byte) string {
	text, ok := event.Text(raw)
	switch {
	case !ok:
		return string(raw)
	case isInteger(column):
		if n, ok := wholeNumber(text); ok {
			return strconv.FormatInt(n, 10)
		}
	case column.Base == "uuid":
		if canonical, ok := canonicalUUID(text); ok {
			return canonical
		}
	}
	return text
}

// isInteger knows PostgreSQL's names and, as SQLite itself does, takes any type
// with an int in it for one.
func isInteger(column *dialect.Column) bool {
	return strings.Contains(column.Base, "int") && column.Base != "interval" && column.Base != "point"
}

// wholeNumber reads the spellings of a whole number that databases take.
func wholeNumber(text string) (int64, bool) {
	text = strings.TrimSpace(text)
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n, true
	}
	const exact = 1 << 53
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f != math.Trunc(f) || f < -exact || f > exact {
		return 0, false
	}
	return int64(f), true
}

// canonicalUUID reads a UUID with or without hyphens and braces, in any case.
func canonicalUUID(text string) (string, bool) {
	digits := strings.ReplaceAll(strings.TrimSuffix(strings.TrimPrefix(text, "{"), "}"), "-", "")
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) != 16 {
		return "", false
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), true
}
