package orm

import (
	"context"
	"database/sql"
	"errors"

	"gorm.io/gorm"

	"github.com/lockstep-go/lockstep/outbox"
)

// Account is a model of GORM's and of bun's. The two version columns are
// Lockstep's: keep them out of models, so that no ORM writes them.
type Account struct {
	ID   int64 `bun:",pk"`
	Name string
}

// WithGORM wraps the transaction inside of GORM's, which commits when the
// function returns nil: hence the flush.
func WithGORM(ctx context.Context, db *gorm.DB, ob *outbox.Outbox, id int64, name string) error {
	return db.WithContext(ctx).Transaction(func(g *gorm.DB) error {
		sqlTx, err := sqlTxOf(g)
		if err != nil {
			return err
		}
		tx := ob.Wrap(sqlTx)
		if err := g.Model(&Account{ID: id}).Update("name", name).Error; err != nil {
			return err
		}
		if err := tx.Saved("account", id); err != nil {
			return err
		}
		return tx.Flush(ctx)
	})
}

// sqlTxOf returns the transaction of a *gorm.DB that is in one, with or without
// GORM's PrepareStmt.
func sqlTxOf(g *gorm.DB) (*sql.Tx, error) {
	pool := g.Statement.ConnPool
	if prepared, ok := pool.(*gorm.PreparedStmtTX); ok {
		pool = prepared.Tx
	}
	if sqlTx, ok := pool.(*sql.Tx); ok {
		return sqlTx, nil
	}
	return nil, errors.New("this *gorm.DB is not in a transaction")
}
