// Command master is a service that owns accounts and payments: it writes both,
// and the events about them, in one transaction.
package main

import (
	"context"
	"database/sql"
	"errors"
	"log"
	"os"

	_ "github.com/lib/pq"

	"github.com/lockstep-go/lockstep/outbox"
)

func main() {
	if err := run(context.Background(), os.Getenv("MASTER_URL")); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, url string) error {
	db, err := sql.Open("postgres", url)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()

	// tour: write
	ob, err := outbox.New(outbox.Config{Dialect: outbox.Postgres, Entities: []outbox.Entity{
		{ID: "account", Table: "accounts", Fields: []string{"id", "name", "balance"}},
		{ID: "payment", Table: "payments"}, // every column
	}})
	if err != nil {
		return err
	}
	if err := ob.Check(ctx, db); err != nil { // tables, columns, migrations: all faults at once
		return err
	}
	return ob.InTx(ctx, db, func(ctx context.Context, tx *outbox.Tx) error {
		if _, err := tx.ExecContext(ctx, `
			INSERT INTO accounts (id, name, balance) VALUES ($1, $2, $3)
			ON CONFLICT (id) DO UPDATE SET balance = accounts.balance + excluded.balance`, 42, "Ada", 10); err != nil {
			return err
		}
		var payment int64
		if err := tx.QueryRowContext(ctx, `
			INSERT INTO payments (account, amount) VALUES ($1, $2) RETURNING id`, 42, 10).Scan(&payment); err != nil {
			return err
		}
		return errors.Join(tx.Saved("account", 42), tx.Saved("payment", payment))
	})
	// end
}
