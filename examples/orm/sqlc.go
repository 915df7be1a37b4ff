package orm

import (
	"context"
	"database/sql"

	"github.com/lockstep-go/lockstep/examples/orm/accounts"
	"github.com/lockstep-go/lockstep/outbox"
)

// WithSqlc gives the Tx to the code that sqlc generated, which takes anything
// with the methods of *sql.Tx. What RETURNING gives is what is marked.
func WithSqlc(ctx context.Context, db *sql.DB, ob *outbox.Outbox, id int64, name string) error {
	return ob.InTx(ctx, db, func(ctx context.Context, tx *outbox.Tx) error {
		renamed, err := accounts.New(tx).RenameAccount(ctx, accounts.RenameAccountParams{Name: name, ID: id})
		if err != nil {
			return err
		}
		return tx.Saved("account", renamed)
	})
}
