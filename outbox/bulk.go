package outbox

import (
	"database/sql"
	"fmt"
)

// SavedRows is [Tx.Saved] for the keys that a statement returns, in their order.
// It reads the rows to their end and closes them, so that a change of any number
// of rows takes one round trip:
//
//	rows, err := tx.QueryContext(ctx, `UPDATE accounts SET balance = 0 WHERE balance < 0 RETURNING id`)
//	if err != nil {
//		return err
//	}
//	return tx.SavedRows("account", rows)
//
// The rows have the columns of the key and no others, in the order of Entity.Keys.
// After an error none of the keys is marked.
func (tx *Tx) SavedRows(entity string, rows *sql.Rows) error {
	defer func() { _ = rows.Close() }()
	e, known := tx.ob.entities[entity]
	if !known {
		return tx.ob.unknown(entity)
	}
	names, err := rows.Columns()
	if err != nil {
		return fmt.Errorf("outbox: %s: read the keys of saved rows: %w", entity, err)
	}
	columns := e.keyColumns()
	if len(names) != len(columns) {
		return fmt.Errorf("outbox: %s: %w: the saved rows have %s and the key %d: return the key alone", entity, ErrKey, columnCount(len(names)), len(columns))
	}
	var keys []any
	for rows.Next() {
		key := make(Composite, len(columns))
		if err := rows.Scan(pointers(nil, key)...); err != nil {
			return fmt.Errorf("outbox: %s: read the keys of saved rows: %w", entity, err)
		}
		keys = append(keys, key)
	}
	if err := tx.note(rows.Err()); err != nil {
		return fmt.Errorf("outbox: %s: read the keys of saved rows: %w", entity, err)
	}
	return tx.Saved(entity, keys...)
}
