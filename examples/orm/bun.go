package orm

import (
	"context"

	"github.com/uptrace/bun"

	"github.com/lockstep-go/lockstep/outbox"
)

// WithBun wraps the *sql.Tx that a bun.Tx embeds. RunInTx commits when the
// function returns nil: hence the flush.
func WithBun(ctx context.Context, db *bun.DB, ob *outbox.Outbox, id int64, name string) error {
	return db.RunInTx(ctx, nil, func(ctx context.Context, bunTx bun.Tx) error {
		tx := ob.Wrap(bunTx.Tx)
		account := &Account{ID: id, Name: name}
		if _, err := bunTx.NewUpdate().Model(account).Column("name").WherePK().Exec(ctx); err != nil {
			return err
		}
		if err := tx.Saved("account", id); err != nil {
			return err
		}
		return tx.Flush(ctx)
	})
}
