package outbox

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"

	"github.com/lockstep-go/lockstep/event"
)

// before is the tracked columns of an entity's rows, by key, as their last event
// or the beginning of the transaction left them; nil for a row that was not there.
type before map[string]json.RawMessage

// Track notes the values that an entity's tracked columns have before a change,
// so that they can be sent as previous_data, and locks the rows until the
// transaction ends: nobody changes them in between. Call it before the change; of
// several calls for a key the first counts. A key without a row is one that will
// be created.
//
// A row that is created under a key which cannot be known before, such as a
// sequence's, need not be tracked: what has no event yet was created.
//
// For an entity without tracked columns it does nothing.
func (tx *Tx) Track(ctx context.Context, entity string, keys ...any) error {
	if err := tx.usable("track", entity); err != nil {
		return err
	}
	p, err := tx.ob.plan(ctx, tx.tx, entity)
	if err != nil || len(p.tracked) == 0 {
		return err
	}
	texts, err := tx.spelled(p, keys)
	if err != nil || len(texts) == 0 {
		return err
	}
	known := tx.tracked[entity]
	if known == nil {
		known = before{}
		if tx.tracked == nil {
			tx.tracked = map[string]before{}
		}
		tx.tracked[entity] = known
	}
	var asked []string
	for _, key := range texts {
		if _, twice := known[key]; !twice {
			asked = append(asked, key)
		}
	}
	if len(asked) == 0 {
		return nil
	}
	rows, err := tx.lockTracked(ctx, p, asked)
	if tx.note(err) != nil {
		return fmt.Errorf("outbox: track %s/%s: %w", entity, firstOf(asked), withRemedy(err))
	}
	for _, key := range asked {
		known[key] = nil
	}
	for _, row := range rows {
		known[asked[row.at]], known[row.key] = row.tracked, row.tracked
	}
	return nil
}

// lockTracked returns the rows with their tracked columns.
func (tx *Tx) lockTracked(ctx context.Context, p *plan, keys []string) (all []changed, err error) {
	rows, err := tx.tx.QueryContext(ctx, p.sql.Track, tx.list(p, keys))
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	scan := tx.ob.newRowScan(p, operation{tracked: true}, keys)
	for rows.Next() {
		var row changed
		if tx.ob.dialect == Postgres {
			err = rows.Scan(&row.at, &row.key, (*[]byte)(&row.tracked))
			row.at-- // an ordinality starts at 1
		} else {
			row, err = scan.trackedRow(rows)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, row)
	}
	return all, rows.Err()
}

// previous returns a saved row's previous_data, and false if it is not known.
func (tx *Tx) previous(p *plan, key string, row *changed) (json.RawMessage, bool) {
	old, known := tx.tracked[p.ID][row.key]
	if !known {
		old = tx.tracked[p.ID][key]
	}
	if old == nil && !row.fresh { // not tracked, or created by others after it was
		return nil, false
	}
	data := []byte{'{'}
	add := func(name, value []byte) {
		if len(data) > 1 {
			data = append(data, ',')
		}
		data = append(event.AppendString(data, string(name)), ':')
		data = append(data, value...)
	}
	if old == nil {
		for name, value := range event.Members(row.tracked) {
			if !event.IsNull(value) {
				add(name, []byte("null"))
			}
		}
		return append(data, '}'), true
	}
	now := map[string][]byte{}
	for name, value := range event.Members(row.tracked) {
		now[string(name)] = value
	}
	for name, value := range event.Members(old) {
		if !bytes.Equal(value, now[string(name)]) {
			add(name, value)
		}
	}
	return append(data, '}'), true
}

// remember makes what was just sent the values that come before the next change.
func (tx *Tx) remember(p *plan, op operation, keys []string, rows []changed) {
	if len(p.tracked) == 0 || op.signal == event.Sync {
		return
	}
	if tx.tracked == nil {
		tx.tracked = map[string]before{}
	}
	known := tx.tracked[p.ID]
	if known == nil {
		known = before{}
		tx.tracked[p.ID] = known
	}
	for i := range rows {
		known[rows[i].key], known[keys[rows[i].at]] = rows[i].tracked, rows[i].tracked
	}
}

func cloneTracked(tracked map[string]before) map[string]before {
	clone := make(map[string]before, len(tracked))
	for entity, rows := range tracked {
		clone[entity] = maps.Clone(rows)
	}
	return clone
}
