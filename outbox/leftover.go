package outbox

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"sync"
)

// leftover is what a function may leave behind in a session: results that it has
// not read to their end. A *sql.Tx closes these when it ends, a *sql.Conn waits for
// them, for ever if need be.
type leftover struct {
	rows     []*sql.Rows
	row      *sql.Row // the last: the server has sent the one before to its end
	prepared bool     // a *sql.Stmt was handed out, whose results nobody else sees
}

func (s *session) query(ctx context.Context, query string, args []any) (*sql.Rows, error) {
	rows, err := s.conn.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	if n := len(s.left.rows); n > 0 && isClosed(s.left.rows[n-1]) {
		s.left.rows = s.left.rows[:n-1]
	}
	s.left.rows = append(s.left.rows, rows)
	return rows, nil
}

func (s *session) queryRow(ctx context.Context, query string, args []any) *sql.Row {
	s.left.row = s.conn.QueryRowContext(ctx, query, args...)
	return s.left.row
}

func isClosed(rows *sql.Rows) bool {
	_, err := rows.Columns()
	return err != nil
}

// close closes what is known to be open.
func (l *leftover) close() {
	for _, rows := range l.rows {
		_ = rows.Close()
	}
	if l.row != nil {
		_ = l.row.Scan() // which closes it, and does nothing when it was scanned before
	}
	l.rows, l.row = nil, nil
}

// errOpenResult reports a result of a prepared statement that was not closed.
var errOpenResult = errors.New("outbox: a result of a prepared statement is still open: close it before the function of InTx returns")

// inStep finds out whether a prepared statement's result is still open. The driver
// would take what is left of it for the answers to what comes next.
func (s *session) inStep(ctx context.Context) error {
	if !s.left.prepared {
		return nil
	}
	var answer string
	if err := s.conn.QueryRowContext(ctx, "SELECT 'lockstep: in step'").Scan(&answer); err != nil || answer != "lockstep: in step" {
		return errors.Join(errOpenResult, err)
	}
	return nil
}

// end rolls back what is not committed and gives the connection back.
func (s *session) end(ctx context.Context, committed bool) {
	s.left.close()
	if !committed && !s.rollback(ctx) {
		s.discard()
		return
	}
	_ = s.conn.Close()
}

// rollback reports whether it has rolled back. It does not try after a
// cancellation, since the driver's request to cancel may be late, nor where a
// result may be open.
func (s *session) rollback(ctx context.Context) bool {
	if ctx.Err() != nil || s.left.prepared {
		return false
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	_, err := s.conn.ExecContext(ctx, "ROLLBACK")
	return err == nil
}

// discard closes the connection, which rolls back, too. The pool learns of it when
// the last result is closed.
func (s *session) discard() {
	closed := make(chan struct{})
	done := sync.OnceFunc(func() { close(closed) })
	discard := func() {
		defer done()
		_ = s.conn.Raw(func(dc any) error {
			_ = dc.(driver.Conn).Close()
			if s.left.prepared {
				done()
			}
			return driver.ErrBadConn
		})
	}
	if s.left.prepared {
		go discard()
	} else {
		discard()
	}
	<-closed
}
