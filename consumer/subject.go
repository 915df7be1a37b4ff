package consumer

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// bound is a message with its values as the database takes them.
type bound struct {
	in    *incoming
	place int   // in the batch
	key   []any // the values of the key's columns
	// columns are the values by column, those it does not write among them.
	columns []any
	size    int // of its texts, in bytes
	// plain: its key has one text only, so that a stored one can be recognized.
	plain bool
	// unkeyed says that the key does not fit its columns, unfit that another value
	// does not, which matters only when it is to be written.
	unkeyed, unfit error
}

// subject is a key of a table, with the messages of a batch that speak of it.
type subject struct {
	to       *replica
	messages []*bound // in their order
	have     state    // what is stored

	// What the messages come to.
	then     state
	image    *bound // the row to write; nil: none
	changed  bool
	reborn   bool // the row was deleted and made anew
	tally    tally
	failures []failure
	misfit   bool // its statement failed on data
}

func (k *subject) key() []any { return k.messages[0].key }

func (k *subject) text() string { return k.messages[0].in.key }

// decide takes the messages through the decision table, one after the other, and
// keeps what is stored in the end. It does what writing each of them would.
func (k *subject) decide() {
	k.then, k.image, k.changed, k.reborn, k.tally, k.failures = k.have, nil, false, false, tally{}, nil
	for _, b := range k.messages {
		v, then := decide(k.then, b.in.change)
		if v.outcome == applied && then.presence == row && b.unfit != nil {
			k.failures = append(k.failures, failure{b.in, b.unfit})
			continue
		}
		k.tally.count(v)
		if v.outcome == applied {
			k.change(b, then)
		}
	}
}

// noted tells which of the messages are stored now, or were already, and which are stale.
func (k *subject) noted(note func(in *incoming, stored bool)) {
	have := k.have
	for _, b := range k.messages {
		v, then := decide(have, b.in.change)
		if v.outcome == applied && then.presence == row && b.unfit != nil {
			continue
		}
		note(b.in, v.outcome != stale)
		have = then
	}
}

// change notes an applied message. The one before it need not be written.
func (k *subject) change(b *bound, then state) {
	if k.changed {
		k.tally.applied--
		k.tally.superseded++
	}
	k.changed = true
	switch {
	case then.presence == tombstone:
		k.image = nil
	case k.image == nil:
		k.image = b
		k.reborn = k.have.presence == row && k.then.presence != row
	default:
		k.image = b.over(k.image)
	}
	k.then = then
}

// over is a message's row where an earlier one's is stored: columns it does not
// write keep what they have.
func (b *bound) over(earlier *bound) *bound {
	if b.in.covers(earlier.in) {
		return b
	}
	both := *b
	in := *b.in
	in.values, in.absent, both.in, both.columns = slices.Clone(b.in.values), "", &in, slices.Clone(b.columns)
	for i := range in.to.Columns {
		if b.in.writes(i) {
			continue
		}
		in.values[slotColumn+i], both.columns[i] = earlier.in.values[slotColumn+i], earlier.columns[i]
		if !in.writes(i) {
			in.absent += string([]byte{byte(i), byte(i >> 8)})
		}
	}
	both.size += earlier.size
	return &both
}

// byKey gathers the messages of a table by key. The keys are in an order that is
// the same everywhere, so that two consumers lock them in the same one; where rows
// refer to others of their table, in the order of arrival.
func byKey(messages []*bound) []*subject {
	index := make(map[string]*subject, len(messages))
	keys := make([]*subject, 0, len(messages))
	for _, b := range messages {
		k := index[b.in.key]
		if k == nil {
			k = &subject{to: b.in.to}
			index[b.in.key] = k
			keys = append(keys, k)
		}
		k.messages = append(k.messages, b)
	}
	if !messages[0].in.to.refersToItself() {
		slices.SortFunc(keys, func(a, b *subject) int { return compareKeys(a.text(), b.text()) })
	}
	return keys
}

func (r *replica) refersToItself() bool {
	return slices.ContainsFunc(r.parents, func(p parent) bool { return p.to == r })
}

// tables parts messages by their tables, in these' order.
func tables(messages []*bound) [][]*bound {
	messages = slices.SortedStableFunc(slices.Values(messages), func(a, b *bound) int { return cmp.Compare(a.in.to.place, b.in.to.place) })
	var parts [][]*bound
	for i, b := range messages {
		if i == 0 || b.in.to != messages[i-1].in.to {
			parts = append(parts, nil)
		}
		parts[len(parts)-1] = append(parts[len(parts)-1], b)
	}
	return parts
}

// bind turns a message's values into the database's.
func (d *decider) bind(in *incoming, place int) *bound {
	b := &bound{in: in, place: place, plain: true}
	for _, slot := range in.to.keySlots() {
		column := in.to.column(slot)
		value, err := d.value(column, in.values[slot])
		if err != nil {
			b.unkeyed = in.fault(column, in.values[slot], err)
			return b
		}
		if d.dialect == dialect.SQLite && !keepsDigits(column, in.values[slot]) {
			b.unkeyed = in.fault(column, in.values[slot], errors.New("a key with more digits than SQLite keeps: make the column TEXT"))
			return b
		}
		b.key = append(b.key, value)
		b.plain = b.plain && d.plain(column, value)
	}
	if in.signal == event.Delete {
		b.unkeyed = d.unburied(in)
		return b
	}
	b.columns = make([]any, len(in.to.Columns))
	for i := range in.to.Columns {
		if !in.writes(i) {
			continue
		}
		column, raw := &in.to.Columns[i], in.values[slotColumn+i]
		value, err := d.value(column, raw)
		if err != nil {
			b.unfit = in.fault(column, raw, err)
			return b
		}
		b.columns[i] = value
		b.size += sizeOf(value)
	}
	return b
}

// unburied returns an error for a DELETE of which no tombstone can be left on MySQL.
// The row would be gone before that is seen.
func (d *decider) unburied(in *incoming) error {
	switch {
	case d.dialect != dialect.MySQL:
	case len(in.key) > dialect.MySQLTombstoneKey:
		return in.fault(nil, nil, fmt.Errorf("the key has %d bytes, more than the %d of a tombstone's", len(in.key), dialect.MySQLTombstoneKey))
	case in.Updated.Year() < 0 || in.Updated.Year() > 9999:
		return in.fault(nil, nil, fmt.Errorf("%s is of the year %d, which datetime(6) does not hold", event.FieldUpdated, in.Updated.Year()))
	}
	return nil
}

func sizeOf(value any) int {
	switch v := value.(type) {
	case string:
		return len(v)
	case []byte:
		return len(v)
	}
	return 8
}

// task tells a replica's statements apart.
type task struct {
	to     *replica
	what   string
	absent string
	rows   int
}

func newTask(to *replica, what, absent string, rows int) task {
	switch what {
	case taskInsert, taskOverwrite, taskUpdate:
		return task{to, what, absent, rows}
	}
	return task{to, what, "", rows}
}

// What a task does.
const (
	taskStored     = "stored"
	taskTombstones = "tombstones"
	taskInsert     = "insert"
	taskOverwrite  = "overwrite"
	taskUpdate     = "update"
	taskRemove     = "remove"
	taskBury       = "bury"
	taskRevive     = "revive"
)

// text is the statement of a task.
func (t task) text(n dialect.Name) string {
	rows := t.to.Rows(n)
	where := t.to.writtenWithout(t.absent)
	switch t.what {
	case taskStored:
		return rows.Stored(t.rows)
	case taskTombstones:
		return rows.Tombstones(t.rows)
	case taskInsert:
		return rows.Insert(where, t.rows)
	case taskOverwrite:
		return rows.Overwrite(where, t.rows)
	case taskUpdate:
		return rows.Update(where)
	case taskRemove:
		return rows.Remove(t.rows)
	case taskBury:
		return rows.Bury(t.rows)
	}
	return rows.Revive(t.rows)
}
