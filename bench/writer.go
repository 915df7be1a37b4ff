package main

import (
	"context"
	"sync"
	"time"

	"github.com/lockstep-go/lockstep/outbox"
)

var (
	writerOne   = writer("writer-1", 1, "one connection")
	writerEight = writer("writer-8", 8, "eight connections at once")
)

// writer compares the times of a transaction with and without its event.
func writer(name string, connections int, how string) row {
	return row{
		name: name, target: 1.35, atMost: true,
		what: "update, Saved and commit; against update and commit (ratio of times), " + how,
		run: func(ctx context.Context, messages int) (float64, float64, error) {
			r, err := newRig(ctx)
			if err != nil {
				return 0, 0, err
			}
			defer r.close()
			_, err = r.db.ExecContext(ctx, `CREATE TABLE accounts (id bigint PRIMARY KEY, name text NOT NULL, balance bigint NOT NULL,
					cqrs_revision bigint NOT NULL DEFAULT 0, cqrs_updated timestamptz NOT NULL DEFAULT now());
				INSERT INTO accounts SELECT i, 'account ' || i, 0 FROM generate_series(0, 999) i`)
			if err != nil {
				return 0, 0, err
			}
			r.db.SetMaxOpenConns(connections)
			r.db.SetMaxIdleConns(connections)
			each := max(messages/10/connections, 1)
			return byTurns(
				func() (float64, error) { return transactions(ctx, connections, each, recorded(r)) },
				func() (float64, error) { return transactions(ctx, connections, each, alone(r)) },
			)
		},
	}
}

const raiseBalance = `UPDATE accounts SET balance = balance + 1 WHERE id = $1`

func alone(r *rig) func(ctx context.Context, key int) error {
	return func(ctx context.Context, key int) error {
		tx, err := r.db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		if _, err := tx.ExecContext(ctx, raiseBalance, key); err != nil {
			return err
		}
		return tx.Commit()
	}
}

func recorded(r *rig) func(ctx context.Context, key int) error {
	ob, faults := outbox.New(outbox.Config{Dialect: outbox.Postgres, Entities: []outbox.Entity{
		{ID: "account", Table: "accounts", Fields: []string{"id", "name", "balance"}},
	}})
	return func(ctx context.Context, key int) error {
		if faults != nil {
			return faults
		}
		return ob.InTx(ctx, r.db, func(ctx context.Context, tx *outbox.Tx) error {
			if _, err := tx.ExecContext(ctx, raiseBalance, key); err != nil {
				return err
			}
			return tx.Saved("account", key)
		})
	}
}

// transactions returns how many a second there were.
func transactions(ctx context.Context, connections, each int, work func(ctx context.Context, key int) error) (float64, error) {
	if _, err := sideBySide(ctx, connections, 50, work); err != nil { // catalogue, connections, prepared statements
		return 0, err
	}
	return sideBySide(ctx, connections, each, work)
}

func sideBySide(ctx context.Context, connections, each int, work func(ctx context.Context, key int) error) (float64, error) {
	errs := make(chan error, connections)
	began := time.Now()
	var all sync.WaitGroup
	for c := range connections {
		all.Go(func() {
			for i := range each {
				if err := work(ctx, (i*connections+c)%1000); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	all.Wait()
	took := time.Since(began)
	select {
	case err := <-errs:
		return 0, err
	default:
		return perSecond(connections*each, took), nil
	}
}
