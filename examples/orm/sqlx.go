package orm

import (
	"context"

	"github.com/jmoiron/sqlx"

	"github.com/lockstep-go/lockstep/outbox"
)

// WithSqlx wraps the *sql.Tx that a *sqlx.Tx embeds.
func WithSqlx(ctx context.Context, db *sqlx.DB, ob *outbox.Outbox, id int64, name string) error {
	sqlxTx, err := db.BeginTxx(ctx, nil)
	if err != nil {
		return err
	}
	tx := ob.Wrap(sqlxTx.Tx)
	defer func() { _ = tx.Rollback() }()
	account := struct {
		ID   int64
		Name string
	}{id, name}
	if _, err := sqlxTx.NamedExecContext(ctx, `UPDATE accounts SET name = :name WHERE id = :id`, account); err != nil {
		return err
	}
	if err := tx.Saved("account", id); err != nil {
		return err
	}
	return tx.Commit(ctx)
}
