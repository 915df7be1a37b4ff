package outbox

import (
	"context"
	"database/sql"
	"sync"

	"github.com/lockstep-go/lockstep/internal/dialect"
)

const (
	// maxStatements bounds the prepared statements of a pool. A program has fewer
	// texts than this unless it writes values into them.
	maxStatements = 256
	// maxStale is how often a statement is prepared anew before it is given up.
	maxStale = 3
)

// statements are the prepared statements of one pool. An unprepared statement
// with parameters costs one round trip more and is planned anew each time, which
// together is more than recording an event.
type statements struct {
	db *sql.DB

	mu     sync.Mutex
	byText map[string]*statement
}

// statement is a text that was used. It is prepared once it is used again.
type statement struct {
	stmt   *sql.Stmt // nil: not prepared
	wanted bool      // used more than once
	stale  int       // how often it had to be prepared anew; from maxStale on it is not
}

// statementsOf returns the statements of a pool; nil when none are to be kept.
func (ob *Outbox) statementsOf(db *sql.DB) *statements {
	if ob.unprepared {
		return nil
	}
	ob.mu.Lock()
	defer ob.mu.Unlock()
	s := ob.pools[db]
	if s == nil {
		s = &statements{db: db, byText: map[string]*statement{}}
		ob.pools[db] = s
	}
	return s
}

// use notes that a text is used and returns it prepared, or nil.
func (s *statements) use(text string) *sql.Stmt {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.byText[text]
	switch {
	case known == nil && len(s.byText) < maxStatements:
		s.byText[text] = &statement{}
	case known != nil:
		known.wanted = true
		return known.stmt
	}
	return nil
}

// prepare prepares what is wanted. It needs a connection of the pool, so it is
// called when the caller holds none: one that waits for a second connection while
// it holds the first could wait for ever.
func (s *statements) prepare(ctx context.Context) {
	if s == nil {
		return
	}
	for text, ok := s.next(); ok; text, ok = s.next() {
		stmt, err := s.db.PrepareContext(ctx, text)
		if ctx.Err() != nil {
			return
		}
		s.mu.Lock()
		switch known := s.byText[text]; {
		case err != nil:
			known.stale = maxStale
		case known.stmt == nil:
			known.stmt, stmt = stmt, nil
		}
		s.mu.Unlock()
		if stmt != nil { // another was quicker
			_ = stmt.Close()
		}
	}
}

func (s *statements) next() (text string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for text, known := range s.byText {
		if known.wanted && known.stmt == nil && known.stale < maxStale {
			return text, true
		}
	}
	return "", false
}

// failed gives a prepared statement up when it is the preparation that was at
// fault: the tables were altered, or the server has forgotten it.
func (s *statements) failed(text string, err error) {
	if !dialect.IsStale(err) {
		return
	}
	s.mu.Lock()
	known := s.byText[text]
	stmt := known.stmt
	known.stmt, known.wanted = nil, false
	known.stale++
	s.mu.Unlock()
	if stmt != nil {
		_ = stmt.Close()
	}
}

// exec runs a statement in the transaction, prepared where it is used often.
func (tx *Tx) exec(ctx context.Context, text string, args ...any) (sql.Result, error) {
	stmt := tx.statements.use(text)
	if stmt == nil {
		return tx.tx.ExecContext(ctx, text, args...)
	}
	done, err := tx.tx.StmtContext(ctx, stmt).ExecContext(ctx, args...) //nolint:sqlclosecheck // closed with the transaction
	if err != nil {
		tx.statements.failed(text, err)
	}
	return done, err
}

// query is exec for a statement that returns rows.
func (tx *Tx) query(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	stmt := tx.statements.use(text)
	if stmt == nil {
		return tx.tx.QueryContext(ctx, text, args...)
	}
	rows, err := tx.tx.StmtContext(ctx, stmt).QueryContext(ctx, args...) //nolint:sqlclosecheck // closed with the transaction
	if err != nil {
		tx.statements.failed(text, err)
	}
	return rows, err
}
