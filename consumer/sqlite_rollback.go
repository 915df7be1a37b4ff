package consumer

import (
	"context"
	"errors"

	"github.com/lockstep-go/lockstep/internal/dialect"
)

// rolledBackError says that a statement failed on data and took the transaction
// along: on SQLite a trigger's RAISE(ROLLBACK) and a constraint's ON CONFLICT
// ROLLBACK do that. What came before it is undone, and nothing more can be done in
// the transaction. It hides the driver's error, which would be about one message.
type rolledBackError struct{ err error }

func (e *rolledBackError) Error() string {
	return "consumer: a statement has rolled back the transaction: " + e.err.Error()
}

// ended asks whether a statement that failed on data has ended the transaction: only
// then another one can begin. That one ends with the rollback to come.
func (w *writing) ended(ctx context.Context, err error) error {
	if err == nil || w.dialect != dialect.SQLite || !isData(err) {
		return err
	}
	if _, inside := w.tx.ExecContext(ctx, dialect.SQLiteBegin); inside != nil {
		return err
	}
	return &rolledBackError{err}
}

// refusedBy returns the error on data behind an attempt at a transaction: its own, or
// what rolled it back.
func refusedBy(err error) (data error, ok bool) {
	if rolledBack := (*rolledBackError)(nil); errors.As(err, &rolledBack) {
		return rolledBack.err, true
	}
	return err, err != nil && isData(err)
}
