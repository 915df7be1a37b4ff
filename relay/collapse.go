package relay

import (
	"bytes"
	"encoding/json"
	"slices"

	"github.com/lockstep-go/lockstep/event"
)

// collapseRows is how many rows are read, at most, before what is left of them is
// sent. It bounds the memory of their ids and the length of one deletion.
const collapseRows = 20_000

// folder keeps, of the rows that were read, the newest event of each key. It
// belongs to the fetching goroutine. Whatever it does not know for an event that
// carries a whole state stays as it is, and in its place among its key's rows.
type folder struct {
	kept  []folded
	open  map[unit]span
	bytes int64
	rows  int // that went in
}

// folded is a row of a folder.
type folded struct {
	row
	state *state // nil: not a whole state
	gone  bool   // another one stands for it
}

// span is where a key's last whole states are in a folder: a DELETE and a SAVE
// behind it, or one of them.
type span struct{ first, last int }

// state is an event that says all there is to know of its key.
type state struct {
	event.Event
	event.Version
}

func newFolder() *folder { return &folder{open: map[unit]span{}} }

// add takes rows, in their order.
func (f *folder) add(rows []row) {
	f.rows += len(rows)
	for _, r := range rows {
		f.addOne(r)
	}
}

func (f *folder) addOne(r row) {
	now := stateOf(r)
	at, known := f.open[r.unit.whole()]
	switch {
	case now == nil:
		delete(f.open, r.unit.whole()) // nothing may move past it
		f.keep(folded{row: r})
		return
	case known && now.Signal == event.Delete && now.follows(f.kept[at.last].state):
		f.replace(at.first, r, now)
		if at.last > at.first {
			f.merge(at.first, at.last)
		}
		f.open[r.unit.whole()] = span{at.first, at.first}
		return
	case known && now.covers(f.kept[at.last].state):
		if merged, ok := mergePrevious(f.kept[at.last].state, now); ok {
			if merged != nil {
				now.Previous = merged
				r.payload = now.AppendJSON(nil)
			}
			f.replace(at.last, r, now)
			return
		}
	case known && now.follows(f.kept[at.last].state) && f.kept[at.last].state.Signal == event.Delete:
		at.last = len(f.kept)
		f.keep(folded{row: r, state: now})
		f.open[r.unit.whole()] = at
		return
	}
	n := len(f.kept)
	f.keep(folded{row: r, state: now})
	f.open[r.unit.whole()] = span{n, n}
}

func (f *folder) keep(one folded) {
	f.bytes += int64(len(one.payload))
	f.kept = append(f.kept, one)
}

// replace has r stand for the row in a place, and for those that one stood for.
func (f *folder) replace(at int, r row, now *state) {
	old := &f.kept[at]
	f.bytes += int64(len(r.payload) - len(old.payload))
	r.skipped = append(append(old.skipped, old.id), r.skipped...)
	f.kept[at] = folded{row: r, state: now}
}

// merge has the row at to stand for the one at from too.
func (f *folder) merge(to, from int) {
	old := &f.kept[from]
	f.bytes -= int64(len(old.payload))
	f.kept[to].skipped = append(append(f.kept[to].skipped, old.skipped...), old.id)
	f.kept[from] = folded{gone: true}
}

// full reports whether what is kept should be sent before more is read.
func (f *folder) full(rows int, bytes int64) bool {
	return len(f.kept) >= rows || f.bytes >= bytes || f.rows >= collapseRows
}

// take empties the folder. The rows of each key are in their order.
func (f *folder) take() []row {
	rows := make([]row, 0, len(f.kept))
	for _, one := range f.kept {
		if !one.gone {
			rows = append(rows, one.row)
		}
	}
	*f = *newFolder()
	return rows
}

// stateOf reads a row as a whole state: a SAVE or DELETE to all replicas, as
// package outbox writes it, with nothing in its metadata that could mean more.
// It returns nil for every other row.
func stateOf(r row) *state {
	if event.IsDirect(r.topic) || !plain(r.metadata) {
		return nil
	}
	e, err := event.Decode(r.payload)
	if err != nil || e.Quirks != 0 || e.Retries != 0 || e.CQRSID != r.topic || e.Signal == event.Sync {
		return nil
	}
	if key, ok := event.Text(e.Key); !ok || key != r.unit.key {
		return nil
	}
	version, err := e.Version()
	if err != nil || version.Revision < 1 {
		return nil
	}
	return &state{e, version}
}

// plain reports whether metadata names the event id and nothing else of weight.
func plain(metadata []byte) bool {
	named := false
	if !json.Valid(metadata) {
		return false
	}
	for name := range event.Members(metadata) {
		switch string(name) {
		case event.HeaderEventID:
			named = true
		case event.HeaderTraceParent, event.HeaderTraceState:
		default:
			return false
		}
	}
	return named
}

// follows reports whether s is a later event than old, and lives as long.
func (s *state) follows(old *state) bool {
	outlives := s.Expires.IsZero() || !old.Expires.IsZero() && !s.Expires.Before(old.Expires)
	return s.Revision > old.Revision && !s.Updated.Before(old.Updated) && outlives
}

// covers reports whether a SAVE leaves nothing to be known of an earlier one:
// a replica keeps the value of a field that is not in an event.
func (s *state) covers(old *state) bool {
	if s.Signal != event.Save || old.Signal != event.Save || !s.follows(old) {
		return false
	}
	var has [][]byte
	for name := range event.Members(s.Data) {
		has = append(has, name)
	}
	i := 0
	for name := range event.Members(old.Data) {
		if (i >= len(has) || !bytes.Equal(has[i], name)) && !slices.ContainsFunc(has, func(b []byte) bool { return bytes.Equal(b, name) }) {
			return false
		}
		i++
	}
	return true
}

// mergePrevious makes the previous_data of a SAVE that stands for the one before
// it too: of each field the oldest value, unless the field has it again. It
// returns nil where there is none; it is not ok when only one of them has any.
func mergePrevious(old, now *state) (merged json.RawMessage, ok bool) {
	if old.Previous == nil && now.Previous == nil {
		return nil, true
	}
	if !object(old.Previous) || !object(now.Previous) {
		return nil, false
	}
	data := map[string][]byte{}
	for name, value := range event.Members(now.Data) {
		data[string(name)] = value
	}
	merged = []byte{'{'}
	seen := map[string]bool{}
	for _, values := range []json.RawMessage{old.Previous, now.Previous} {
		for name, value := range event.Members(values) {
			if seen[string(name)] {
				continue
			}
			seen[string(name)] = true
			if current, there := data[string(name)]; there && bytes.Equal(current, value) {
				continue
			}
			if len(merged) > 1 {
				merged = append(merged, ',')
			}
			merged = append(append(event.AppendString(merged, string(name)), ':'), value...)
		}
	}
	return append(merged, '}'), true
}

func object(raw json.RawMessage) bool { return len(raw) > 0 && raw[0] == '{' }
