package consumer

import (
	"context"
	"database/sql"
	"fmt"
	"sync"

	"github.com/lockstep-go/lockstep/internal/dialect"
)

// Tx is a handler's transaction. It can be neither committed nor rolled back,
// nor by SQL either ([ErrTransactionText]): the consumer does that, when the
// handler has returned. On MySQL, do not use statements that commit by
// themselves, such as CREATE TABLE or TRUNCATE. There it refuses everything
// after a deadlock, or a lock that was waited for too long: the server has, or
// may have, undone what came before. The event is handled again then, whatever
// the function returns. Its methods are those of
// *sql.Tx, so what sqlc and others generate takes it.
type Tx struct{ s *txState }

// txState is what the calls of a transaction have in common.
type txState struct {
	tx *sql.Tx
	patience

	mu     sync.Mutex
	first  error // the first error of a statement
	away   bool  // an error said that the database is away
	ended  error // says that MySQL has rolled the transaction back
	cancel []context.CancelFunc
}

// ExecContext executes a statement that returns no rows.
func (tx Tx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if err := tx.s.refuse(query); err != nil {
		return nil, err
	}
	limited, done := tx.s.limit(ctx)
	defer done()
	res, err := tx.s.tx.ExecContext(limited, query, args...)
	tx.s.note(ctx, query, err)
	return res, err
}

// QueryContext executes a statement that returns rows. They must be closed
// before the handler returns.
func (tx Tx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if err := tx.s.refuse(query); err != nil {
		return nil, err
	}
	rows, err := tx.s.tx.QueryContext(tx.s.limitToEnd(ctx), query, args...)
	tx.s.note(ctx, query, err)
	return rows, err
}

// QueryRowContext executes a statement that returns at most one row.
func (tx Tx) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if err := tx.s.refuse(query); err != nil {
		return tx.s.tx.QueryRowContext(refused{ctx, err}, query) //nolint:contextcheck // it is made of ctx
	}
	row := tx.s.tx.QueryRowContext(tx.s.limitToEnd(ctx), query, args...)
	tx.s.note(ctx, query, row.Err())
	return row
}

// PrepareContext prepares a statement, which goes with the transaction.
func (tx Tx) PrepareContext(ctx context.Context, query string) (*sql.Stmt, error) {
	if err := tx.s.refuse(query); err != nil {
		return nil, err
	}
	stmt, err := tx.s.tx.PrepareContext(ctx, query)
	tx.s.note(ctx, query, err)
	return stmt, err
}

// limitToEnd is limit for a statement whose rows are read after the call.
func (s *txState) limitToEnd(ctx context.Context) context.Context {
	ctx, cancel := s.limit(ctx)
	if s.timeout > 0 && !s.byServer {
		s.mu.Lock()
		s.cancel = append(s.cancel, cancel)
		s.mu.Unlock()
	}
	return ctx
}

// note remembers what a statement's error says about the database, and logs a
// statement that took too long.
func (s *txState) note(ctx context.Context, query string, err error) {
	if err == nil {
		return
	}
	s.mu.Lock()
	if s.first == nil {
		s.first = err
	}
	s.away = s.away || dialect.IsAway(err) || dialect.IsConnection(err)
	if s.ended == nil && dialect.EndsTransaction(err) {
		s.ended = fmt.Errorf("consumer: the database has rolled the handler's transaction back: %w", err)
	}
	s.mu.Unlock()
	s.tooLong(ctx, err, query)
}

// over returns an error once MySQL has rolled the transaction back, and with it its
// BEGIN and the note that the event was seen: what came behind would be committed at once.
func (s *txState) over() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// refuse returns an error for what must not be sent.
func (s *txState) refuse(query string) error {
	if err := s.over(); err != nil {
		return err
	}
	return refuse(query)
}

// end releases what statements hold.
func (s *txState) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, cancel := range s.cancel {
		cancel()
	}
}

// trouble returns the first error of a statement, and whether the database was
// away for one.
func (s *txState) trouble() (first error, away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first, s.away
}
