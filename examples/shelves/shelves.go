// Package shelves has an entity with a key of two columns and a tracked field, on
// both sides.
package shelves

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"

	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/outbox"
)

// New declares the master's side. The table's primary key is (region, number).
func New(d outbox.Dialect) (*outbox.Outbox, error) {
	return outbox.New(outbox.Config{Dialect: d, Entities: []outbox.Entity{
		{ID: "shelf", Table: "shelves", Keys: []string{"region", "number"}, Tracked: []string{"stock"}},
	}})
}

// Restock changes a shelf. Track notes its stock before the change.
func Restock(ctx context.Context, ob *outbox.Outbox, db *sql.DB, region string, number, stock int) error {
	key := outbox.Composite{region, number}
	return ob.InTx(ctx, db, func(ctx context.Context, tx *outbox.Tx) error {
		if err := tx.Track(ctx, "shelf", key); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `
			INSERT INTO shelves (region, number, stock) VALUES ($1, $2, $3)
			ON CONFLICT (region, number) DO UPDATE SET stock = excluded.stock`, region, number, stock)
		if err != nil {
			return err
		}
		return tx.Saved("shelf", key)
	})
}

// Shelf is what the replica reads of the data.
type Shelf struct{ Stock int }

// Follow calls moved with each change of a stock.
func Follow(c *consumer.Consumer, moved func(region, number string, from *int, to int) error) error {
	return consumer.Handle(c, "shelf", func(_ context.Context, _ consumer.Tx, ev consumer.Event[Shelf]) error {
		if ev.Kind == consumer.Delete {
			return nil
		}
		key := ev.Keys() // region, number: the order of the master's Keys
		if len(key) != 2 {
			return consumer.Permanent(fmt.Errorf("the key %s has not two columns", ev.Key))
		}
		var before struct{ Stock *int } // nil in a new row's event
		if ev.Previous != nil {
			if err := json.Unmarshal(ev.Previous, &before); err != nil {
				return err
			}
		}
		return moved(key[0], key[1], before.Stock, ev.Data.Stock)
	})
}
