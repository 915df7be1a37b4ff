package consumer

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/lockstep-go/lockstep/internal/dialect"
)

// engine applies messages to the replicas' tables.
type engine interface {
	// plan does what needs no database, for a batch in its order. It may run while
	// another batch is being applied.
	plan(batch []*incoming) any
	// apply applies a planned batch in one transaction and commits it. A message
	// that does not fit is among the failures and does not hinder the others; to
	// that end the batch may become several transactions. An error is about the
	// database, and the whole batch is to be applied again, of which some may
	// have been committed.
	apply(ctx context.Context, batch []*incoming, plan any) (result, error)
	// within applies a batch in a transaction of the caller's. A message that does not
	// fit is among the failures and leaves no trace there.
	within(ctx context.Context, tx *sql.Tx, batch []*incoming) (result, error)
	close() error
}

// result is what a committed batch came to.
type result struct {
	tally
	failures []failure
	isolated bool // it had to be taken apart
	stored   overtaking
}

// failure is a message that does not fit; err is a *DataError.
type failure struct {
	in  *incoming
	err error
}

func (c *Consumer) newEngine() engine {
	if c.dialect == dialect.SQLite {
		return c.newSQLite()
	}
	// Each statement has to see what others committed while the one before it
	// waited for a lock.
	readCommitted := &sql.TxOptions{Isolation: sql.LevelReadCommitted}
	if c.dialect == dialect.MySQL {
		return c.newMySQL(readCommitted)
	}
	return &postgres{statements: c.newStatements(readCommitted), conditions: make(map[[2]string]condition), suspicions: make(map[string]*suspicion)}
}

// statements caches prepared statements by what they are for. It is used by one
// goroutine at a time, and filled before a transaction starts: a pool of one
// connection has none left to prepare with after that.
type statements struct {
	db       *sql.DB
	options  *sql.TxOptions // of each transaction
	prepared map[any]*sql.Stmt
	patience
	texts map[any]string // of the prepared ones, when there is a timeout
	last  any            // the key of the one used last
	loose string         // the text of the one used last, when it is not prepared
}

func (c *Consumer) newStatements(options *sql.TxOptions) *statements {
	return &statements{
		db: c.db, options: options, prepared: make(map[any]*sql.Stmt),
		patience: c.newPatience(c.cfg.Logger.With(logQueue, c.cfg.Queue)), texts: make(map[any]string),
	}
}

// prepare makes sure that there is a statement under the key.
func (s *statements) prepare(ctx context.Context, key any, text func() string) error {
	if s.prepared[key] != nil {
		return nil
	}
	stmt, err := s.db.PrepareContext(ctx, text()) //nolint:sqlclosecheck // cached; closed with the statements
	if err != nil {
		return fmt.Errorf("consumer: prepare: %w", err)
	}
	s.prepared[key] = stmt
	if s.timeout > 0 {
		s.texts[key] = text()
	}
	return nil
}

// maxStatements bounds the cache. A table has one statement, or a few; but each
// set of fields that messages leave out makes another.
const maxStatements = 200

// trim empties the cache when it is full. It must not be called between prepare
// and in.
func (s *statements) trim() error {
	if len(s.prepared) < maxStatements {
		return nil
	}
	return s.close()
}

// in returns the statement under the key, for use within a transaction.
func (s *statements) in(ctx context.Context, tx *sql.Tx, key any) *sql.Stmt {
	s.last, s.loose = key, ""
	return tx.StmtContext(ctx, s.prepared[key])
}

// statement is one that is prepared, or is not.
type statement interface {
	ExecContext(ctx context.Context, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, args ...any) (*sql.Rows, error)
}

// with returns the statement under the key or, where it is not prepared, the text
// to run as it is.
func (s *statements) with(ctx context.Context, tx *sql.Tx, key any, text func() string) statement {
	if s.prepared[key] != nil {
		return s.in(ctx, tx, key)
	}
	s.last, s.loose = key, text()
	return loose{tx, s.loose}
}

// loose is a statement that is not prepared.
type loose struct {
	tx   *sql.Tx
	text string
}

func (l loose) ExecContext(ctx context.Context, args ...any) (sql.Result, error) {
	return l.tx.ExecContext(ctx, l.text, args...)
}

func (l loose) QueryContext(ctx context.Context, args ...any) (*sql.Rows, error) {
	return l.tx.QueryContext(ctx, l.text, args...)
}

func (s *statements) close() error {
	var errs []error
	for _, stmt := range s.prepared {
		errs = append(errs, stmt.Close())
	}
	clear(s.prepared)
	clear(s.texts)
	return errors.Join(errs...)
}

// transact runs work in a transaction and commits it.
func (s *statements) transact(ctx context.Context, work func(tx *sql.Tx) error) (err error) {
	defer func() { err = dialect.WithCause(ctx, err) }()
	tx, err := s.db.BeginTx(ctx, s.options)
	if err != nil {
		return fmt.Errorf("consumer: begin: %w", err)
	}
	s.last, s.loose = nil, ""
	if err = s.begin(ctx, tx); err == nil {
		err = work(tx)
	}
	if err != nil {
		_ = tx.Rollback() // work's error says more
		s.tooLong(ctx, err, cmp.Or(s.loose, s.texts[s.last], "one that takes locks or looks for a fault"))
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("consumer: commit: %w", err)
	}
	return nil
}

// byTable returns the messages in the tables' order, those of a table in their
// own: what is applied piece by piece finds the rows it refers to.
func byTable(batch []*incoming) []*incoming {
	place := func(a, b *incoming) int { return cmp.Compare(a.to.place, b.to.place) }
	if slices.IsSortedFunc(batch, place) {
		return batch
	}
	return slices.SortedStableFunc(slices.Values(batch), place)
}

// Waits between attempts at a transaction or a publication.
const (
	conflictAttempts = 10
	conflictWait     = 5 * time.Millisecond
	outageWaitFirst  = 200 * time.Millisecond
	outageWaitMost   = 10 * time.Second
)

// conflictBackoff grows by the attempt, from 0, with jitter.
func conflictBackoff(attempt int) time.Duration {
	return rand.N(conflictWait << min(attempt, 6)) //nolint:gosec // spreads load, keeps no secret
}

// outageBackoff doubles from 200 ms to 10 s by the attempt, from 0, with a
// quarter of jitter.
func outageBackoff(attempt int) time.Duration {
	wait := min(outageWaitFirst<<min(attempt, 6), outageWaitMost)
	return wait - rand.N(wait/4) //nolint:gosec // as above
}

// sleep waits and reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
