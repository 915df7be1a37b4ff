// Package django shows a master and a replica in the place of django-cqrs's, on
// the tables that Django made. docs/migrating-from-django-cqrs.md explains it.
package django

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/outbox"
)

// NewMaster declares what the model Account declared.
func NewMaster() (*outbox.Outbox, error) {
	// tour: master
	account := outbox.Entity{
		ID:        "account",                                        // CQRS_ID
		Table:     "shop_account",                                   // Meta.db_table
		Fields:    []string{"id", "name", "balance", "category_id"}, // CQRS_FIELDS, by column
		Tracked:   []string{"balance"},                              // CQRS_TRACKED_FIELDS
		TTL:       24 * time.Hour,                                   // CQRS_MESSAGE_TTL
		Serialize: djangoNames,                                      // CQRS_SERIALIZER
		Meta: func(_ context.Context, _ outbox.Instance) (map[string]any, error) { // get_cqrs_meta
			return map[string]any{"source": "shop"}, nil
		},
	}
	// end
	return outbox.New(outbox.Config{Dialect: outbox.Postgres, Entities: []outbox.Entity{account}})
}

// tour: names

// djangoNames sends a foreign key as Django does, by the field's name: category, not category_id.
func djangoNames(_ context.Context, _ *outbox.Tx, rows []outbox.Instance) (map[string]any, error) {
	sent := make(map[string]any, len(rows))
	for _, row := range rows {
		var data map[string]json.RawMessage
		if err := json.Unmarshal(row.Data, &data); err != nil {
			return nil, err
		}
		data["category"] = data["category_id"]
		delete(data, "category_id")
		sent[row.Key] = data
	}
	return sent, nil
}

// end

// Spend is what the view spend did: account.balance -= amount; account.save().
func Spend(ctx context.Context, ob *outbox.Outbox, db *sql.DB, id, amount int64) error {
	// tour: save
	return ob.InTx(ctx, db, func(ctx context.Context, tx *outbox.Tx) error {
		if err := tx.Track(ctx, "account", id); err != nil { // with CQRS_TRACKED_FIELDS only
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE shop_account SET balance = balance - $1 WHERE id = $2`, amount, id); err != nil {
			return err
		}
		return tx.Saved("account", id)
	})
	// end
}

// Rate is what the replica wants to know of an exchange rate.
type Rate struct {
	Currency string  `json:"currency"`
	Value    float64 `json:"value"`
}

// NewReplica declares what the replica's models declared. keep was the
// cqrs_save of a model with CQRS_NO_DB_OPERATIONS.
func NewReplica(db *sql.DB, broker consumer.Broker, keep func(r Rate)) (*consumer.Consumer, error) {
	// tour: replica
	c, err := consumer.New(db, broker, consumer.Config{
		Queue:         "billing",           // CQRS['queue']
		DeadLetterTTL: 10 * 24 * time.Hour, // dead_message_ttl
	})
	if err != nil {
		return nil, err
	}
	table := c.Table("account", consumer.Table{ // a ReplicaMixin with CQRS_ID = 'account'
		Name:       "billing_accountref",                                                      // Meta.db_table
		Columns:    map[string]string{"id": "id", "name": "title", "category": "category_id"}, // CQRS_MAPPING, to columns
		MaxRetries: 30,                                                                        // CQRS_MAX_RETRIES
		RetryDelay: 2 * time.Second,                                                           // CQRS_RETRY_DELAY
	})
	handler := consumer.HandleNoDB(c, "rate", func(_ context.Context, ev consumer.Event[Rate]) error { // a RawReplicaMixin
		keep(ev.Data)
		return nil
	}, consumer.HandlerOptions{OnlyDirectSyncs: true}) // CQRS_ONLY_DIRECT_SYNCS
	return c, errors.Join(table, handler)
	// end
}
