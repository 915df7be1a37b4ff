package sql

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"time"
)

// prepare makes the tables if they are missing.
func (b *Broker) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.ConfirmTimeout)
	defer cancel()
	var tables, schema bool
	if err := b.row(ctx, b.sql.missing, []any{b.cfg.Schema}, &tables, &schema); err != nil {
		return err
	}
	if !tables {
		return nil
	}
	err := b.inTx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, b.sql.lockTables); err != nil {
			return err
		}
		if err := tx.QueryRowContext(ctx, b.sql.missing, b.cfg.Schema).Scan(&tables, &schema); err != nil || !tables {
			return err // another one was faster
		}
		text := b.sql.tables
		if schema { // only then, for it asks for a right on the database even if the schema is there
			text = Tables(b.cfg.Schema)
		}
		_, err := tx.ExecContext(ctx, text)
		return err
	})
	if hasCode(err, insufficientPrivilege) {
		return fmt.Errorf("%w in schema %s, and the role may not make them (%w). Let one who may run this, and grant the role USAGE on the schema "+
			"and its sequences and SELECT, INSERT, UPDATE, DELETE on its tables:\n%s", ErrTables, b.cfg.Schema, err, Tables(b.cfg.Schema))
	}
	return err
}

// inTx runs fn in a transaction, which the server ends if nothing comes for ConfirmTimeout: its locks
// keep others from publishing, and this process may be frozen.
func (b *Broker) inTx(ctx context.Context, fn func(tx *sql.Tx) error) (err error) {
	defer func() { err = because(ctx, err) }()
	tx, err := b.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, limitSilence, silence(b.cfg.ConfirmTimeout)); err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// silence is a time as idle_in_transaction_session_timeout takes it, in milliseconds. It has 31 bits.
func silence(d time.Duration) string {
	return strconv.FormatInt(min(d, 24*time.Hour).Milliseconds(), 10)
}
