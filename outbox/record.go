package outbox

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
	"github.com/lockstep-go/lockstep/internal/tracing"
)

// operation is what is done to an entity's rows, and what comes back of them.
type operation struct {
	signal          event.Signal
	sql             dialect.Operation
	fields, tracked bool // the changed rows have them
	remove          bool // the rows are deleted once their events are made
}

func (p *plan) saving() operation {
	return operation{signal: event.Save, sql: p.sql.Save, fields: true, tracked: true}
}

// deleting is for rows that the caller deletes afterwards.
func (p *plan) deleting() operation {
	return operation{signal: event.Delete, sql: p.sql.Deleting, fields: p.DeleteData != nil}
}

// deletion deletes rows. DeleteData has to see them and what refers to them, so
// with it they go at the end.
func (p *plan) deletion() operation {
	if p.DeleteData != nil && !p.Muted {
		op := p.deleting()
		op.remove = true
		return op
	}
	return operation{signal: event.Delete, sql: p.sql.Delete, fields: p.DeleteData != nil}
}

func (p *plan) syncing() operation {
	return operation{signal: event.Sync, sql: p.sql.Sync, fields: true}
}

// record does an operation to the rows of the keys and writes their events.
func (tx *Tx) record(ctx context.Context, p *plan, op operation, keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	keys, err := p.spell(tx.ob.dialect, keys)
	if err != nil {
		return err
	}
	var found []bool
	err = tx.locate(ctx, p, keys, func(keys []string) (err error) {
		if op.sql.Record == "" {
			found, err = tx.recordRows(ctx, p, op, keys)
			return err
		}
		found, err = tx.recordDirect(ctx, p, op, keys)
		return err
	})
	if tx.note(err) != nil {
		tx.ob.forget(p.ID) // the table may have been altered
		return err
	}
	if !slices.Contains(found, false) {
		return nil
	}
	missing := &NotFoundError{Entity: p.ID, deleting: op.signal == event.Delete}
	for i, key := range keys {
		if !found[i] {
			missing.Keys = append(missing.Keys, key)
		}
	}
	return missing
}

// foundAlike counts a key as found if another spelling of it was, such as 1.0 of 1:
// a statement changes a row once.
func (tx *Tx) foundAlike(ctx context.Context, p *plan, keys []string, found []bool) error {
	if p.sql.Same == "" || !slices.Contains(found, false) || !slices.Contains(found, true) {
		return nil
	}
	rows, err := tx.tx.QueryContext(ctx, p.sql.Same, tx.ob.dialect.Texts(keys))
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	first, alike := make([]int, 0, len(keys)), map[int]bool{}
	for rows.Next() {
		var place int
		if err := rows.Scan(&place); err != nil {
			return err
		}
		alike[place] = alike[place] || found[len(first)]
		first = append(first, place)
	}
	for i, place := range first {
		found[i] = alike[place]
	}
	return rows.Err()
}

// recordDirect has the database make the events. It reports which rows it found.
func (tx *Tx) recordDirect(ctx context.Context, p *plan, op operation, keys []string) ([]bool, error) {
	found := make([]bool, len(keys))
	if len(keys) == 1 && op.signal == event.Save && p.sql.SaveOne != "" {
		args, err := tx.ob.saveOneArgs(ctx, keys[0])
		if err != nil {
			return nil, err
		}
		_, err = tx.ExecContext(ctx, p.sql.SaveOne, anys(args)...)
		found[0] = err == nil
		if dialect.IsNoSuchKey(err) {
			err = nil
		}
		return found, err
	}
	ids, err := eventIDs(len(keys))
	if err != nil {
		return nil, err
	}
	args := []any{tx.ob.dialect.Texts(keys), tx.ob.dialect.Texts(ids)}
	correlation, err := tx.ob.correlation(ctx)
	if err != nil {
		return nil, err
	}
	if !p.Muted {
		args = append(args, tracing.Object(ctx))
	}
	if correlation != nil && !p.Muted {
		args = append(args, string(correlation))
	}
	rows, err := tx.tx.QueryContext(ctx, op.sql.Record, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	index := make(map[string]int, len(keys))
	for i, id := range ids {
		index[id] = i
	}
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		found[index[id]] = true
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	return found, tx.foundAlike(ctx, p, keys, found)
}

// saveOneArgs are the parameters of the statement that saves a single key.
func (ob *Outbox) saveOneArgs(ctx context.Context, key string) ([]string, error) {
	ids, err := eventIDs(1)
	if err != nil {
		return nil, err
	}
	args := []string{key, idMetadata(ctx, ids[0])}
	correlation, err := ob.correlation(ctx)
	if correlation != nil {
		args = append(args, string(correlation))
	}
	return args, err
}

// recordRows makes the events here, after the entity's functions saw the rows.
func (tx *Tx) recordRows(ctx context.Context, p *plan, op operation, keys []string) ([]bool, error) {
	rows, err := tx.change(ctx, p, op, keys)
	if err != nil {
		return nil, err
	}
	found := make([]bool, len(keys))
	for i := range rows {
		found[rows[i].at] = true
	}
	if err := tx.foundAlike(ctx, p, keys, found); err != nil {
		return nil, err
	}
	rows = slices.DeleteFunc(rows, func(row changed) bool { return row.twin })
	if p.Muted || slices.Contains(found, false) {
		return found, nil
	}
	msgs, err := tx.events(ctx, p, op, keys, rows)
	if err != nil {
		return nil, err
	}
	if err := tx.insertEvents(ctx, msgs); err != nil {
		return nil, err
	}
	tx.remember(p, op, keys, rows)
	if op.remove {
		_, err = tx.ExecContext(ctx, p.sql.Remove, tx.list(p, keys))
	}
	return found, err
}

func anys(texts []string) []any {
	values := make([]any, len(texts))
	for i, text := range texts {
		values[i] = text
	}
	return values
}

// correlation returns the correlation id as JSON.
func (ob *Outbox) correlation(ctx context.Context) (json.RawMessage, error) {
	if ob.correlationID == nil {
		return nil, nil
	}
	id, err := wireJSON(ob.correlationID(ctx))
	if err != nil {
		return nil, &functionError{fmt.Errorf("outbox: Config.CorrelationID: %w", err)}
	}
	return id, nil
}

// eventIDs makes n UUIDv7s, which sort in the order they were made.
func eventIDs(n int) ([]string, error) {
	ids := make([]string, n)
	for i := range ids {
		id, err := uuid.NewV7()
		if err != nil {
			return nil, fmt.Errorf("outbox: make an event id: %w", err)
		}
		ids[i] = id.String()
	}
	return ids, nil
}
