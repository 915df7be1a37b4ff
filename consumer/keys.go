package consumer

import "github.com/lockstep-go/lockstep/event"

// Keys takes Key apart where the entity's key has several columns: their texts in
// the order of the master's declaration, the counterpart of outbox.Composite. Of a
// key of one column it is Key alone. The columns' values stand in Raw under their own
// names too, also of a Delete.
func (ev *Event[T]) Keys() []string { return event.SplitKey(ev.Key) }

// KeyFields returns the fields of an entity's data that hold its key: those that
// are mapped to the table's key columns, in the order of [Table.Keys], or a handler's
// [HandlerOptions.Key]. It is nil for a handler without one, which takes the key
// from the envelope, and for an entity that is not registered.
func (c *Consumer) KeyFields(cqrsID string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.entities {
		switch {
		case e.id != cqrsID:
		case e.handler == nil:
			return e.table.keyFields()
		case e.handler.key != "":
			return []string{e.handler.key}
		}
	}
	return nil
}

func (t *Table) keyFields() []string {
	fields := make([]string, len(t.Keys))
	for i, key := range t.Keys {
		fields[i] = key
		for field, column := range t.Columns {
			if column == key {
				fields[i] = field
			}
		}
	}
	return fields
}
