package orm

import (
	"context"
	"database/sql"

	"github.com/lockstep-go/lockstep/outbox"
)

// WithInTx lets Lockstep begin and commit.
func WithInTx(ctx context.Context, db *sql.DB, ob *outbox.Outbox, id int64, name string) error {
	return ob.InTx(ctx, db, func(ctx context.Context, tx *outbox.Tx) error {
		if _, err := tx.ExecContext(ctx, `UPDATE accounts SET name = $1 WHERE id = $2`, name, id); err != nil {
			return err
		}
		return tx.Saved("account", id)
	})
}

// WithDatabaseSQL begins with database/sql and commits through the Tx.
func WithDatabaseSQL(ctx context.Context, db *sql.DB, ob *outbox.Outbox, id int64, name string) error {
	sqlTx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return err
	}
	tx := ob.Wrap(sqlTx)
	defer func() { _ = tx.Rollback() }() // after the commit it does nothing
	if _, err := tx.ExecContext(ctx, `UPDATE accounts SET name = $1 WHERE id = $2`, name, id); err != nil {
		return err
	}
	if err := tx.Saved("account", id); err != nil {
		return err
	}
	return tx.Commit(ctx) // flushes first
}
