package consumer

import (
	"context"
	"database/sql"
	"log/slog"
	"sync"
	"time"

	"github.com/lockstep-go/lockstep/internal/dialect"
)

// Tx is a handler's transaction. It can be neither committed nor rolled back: the
// consumer does that, when the handler has returned. Its methods are those of
// *sql.Tx, so what sqlc and others generate takes it.
type Tx struct{ s *txState }

// txState is what the calls of a transaction have in common.
type txState struct {
	tx       *sql.Tx
	log      *slog.Logger
	entity   string
	timeout  time.Duration // of a statement; zero for none
	byServer bool          // the server keeps the timeout

	mu     sync.Mutex
	first  error // the first error of a statement
	away   bool  // an error said that the database is away
	cancel []context.CancelFunc
}

// ExecContext executes a statement that returns no rows.
func (tx Tx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	ctx, done := tx.s.limit(ctx)
	defer done()
	res, err := tx.s.tx.ExecContext(ctx, query, args...)
	tx.s.note(ctx, query, err)
	return res, err
}

// QueryContext executes a statement that returns rows. They must be closed
// before the handler returns.
func (tx Tx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	ctx = tx.s.limitToEnd(ctx)
	rows, err := tx.s.tx.QueryContext(ctx, query, args...)
	tx.s.note(ctx, query, err)
	return rows, err
}

// QueryRowContext executes a statement that returns at most one row.
func (tx Tx) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	ctx = tx.s.limitToEnd(ctx)
	row := tx.s.tx.QueryRowContext(ctx, query, args...)
	tx.s.note(ctx, query, row.Err())
	return row
}

// PrepareContext prepares a statement, which goes with the transaction.
func (tx Tx) PrepareContext(ctx context.Context, query string) (*sql.Stmt, error) {
	stmt, err := tx.s.tx.PrepareContext(ctx, query)
	tx.s.note(ctx, query, err)
	return stmt, err
}

// limit bounds one statement, where the server does not.
func (s *txState) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	if s.timeout == 0 || s.byServer {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, s.timeout)
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
	s.mu.Unlock()
	if s.timeout > 0 && dialect.Classify(err) == dialect.Canceled && (s.byServer && ctx.Err() == nil || ctx.Err() != nil && !s.byServer) {
		s.log.Warn("a statement took too long", logEntity, s.entity, "statement", shorten(query, maxStatementShown), "timeout", s.timeout, logError, err)
	}
}

// maxStatementShown is how much of a statement is logged.
const maxStatementShown = 1000

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
