// Command replica is a service that keeps a copy of the accounts under other
// column names, and adds the payments up.
package main

import (
	"context"
	"database/sql"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	_ "github.com/lib/pq"

	"github.com/lockstep-go/lockstep/broker/rabbitmq"
	"github.com/lockstep-go/lockstep/consumer"
)

// payment is what this service wants to know of one.
type payment struct {
	Account int64 `json:"account"`
	Amount  int64 `json:"amount"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Getenv("REPLICA_URL"), os.Getenv("BROKER_URL")); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, databaseURL, brokerURL string) error {
	db, err := sql.Open("postgres", databaseURL)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()

	// tour: apply
	broker, err := rabbitmq.Open(ctx, brokerURL, rabbitmq.Config{})
	if err != nil {
		return err
	}
	defer func() { _ = broker.Close() }()
	c, err := consumer.New(db, broker, consumer.Config{Queue: "billing", Logger: slog.Default()})
	if err != nil {
		return err
	}
	err = c.Table("account", consumer.Table{
		Name:    "account_ref",
		Columns: map[string]string{"id": "id", "name": "title"}, // wire field: column; the rest is ignored
	})
	if err != nil {
		return err
	}
	err = consumer.Handle(c, "payment", func(ctx context.Context, tx consumer.Tx, ev consumer.Event[payment]) error {
		if ev.Kind != consumer.Create {
			return nil
		}
		_, err := tx.ExecContext(ctx, `
			INSERT INTO turnover (account, total) VALUES ($1, $2)
			ON CONFLICT (account) DO UPDATE SET total = turnover.total + excluded.total`, ev.Data.Account, ev.Data.Amount)
		return err
	})
	if err != nil {
		return err
	}
	return c.Run(ctx) // until ctx ends; then finishes what it has in hand
	// end
}
