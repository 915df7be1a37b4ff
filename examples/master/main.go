// Command master is a service that owns accounts: it writes an account and the
// event about it in one transaction.
package main

import (
	"context"
	"database/sql"
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
	ob, err := outbox.New(outbox.Config{
		Dialect:  outbox.Postgres,
		Entities: []outbox.Entity{{ID: "account", Table: "accounts", Fields: []string{"id", "name", "balance"}}},
	})
	if err != nil {
		return err
	}
	if err := ob.Check(ctx, db); err != nil { // tables, columns, migrations: all faults at once
		return err
	}
	return ob.InTx(ctx, db, func(ctx context.Context, tx *outbox.Tx) error {
		if _, err := tx.ExecContext(ctx, `
			INSERT INTO accounts (id, name, balance) VALUES ($1, $2, $3)
			ON CONFLICT (id) DO UPDATE SET balance = accounts.balance + 10`, 42, "Ada", 100); err != nil {
			return err
		}
		return tx.Saved("account", 42)
	})
	// end
}
