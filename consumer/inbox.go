package consumer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/lockstep-go/lockstep/internal/dialect"
)

// inbox calls handlers and keeps the note of what they have seen. Several
// goroutines use it at a time.
type inbox struct {
	*Consumer
	log     *slog.Logger
	options *sql.TxOptions
	// alone is held by a handler's transaction where only one can write at a time.
	alone chan struct{}

	mu       sync.Mutex
	prepared *inboxStatements // nil before the first event
}

type inboxStatements struct{ stored, insert, update *sql.Stmt }

func (c *Consumer) newInbox(log *slog.Logger) *inbox {
	x := &inbox{Consumer: c, log: log, options: &sql.TxOptions{Isolation: sql.LevelReadCommitted}}
	if c.dialect == dialect.SQLite {
		x.options, x.alone = nil, make(chan struct{}, 1)
	}
	return x
}

// statements prepares before the transaction: a pool of one connection has none
// left after that.
func (x *inbox) statements(ctx context.Context) (*inboxStatements, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.prepared != nil {
		return x.prepared, nil
	}
	text, p := x.dialect.Inbox(), &inboxStatements{}
	var opened []*sql.Stmt
	for _, s := range []struct {
		into **sql.Stmt
		text string
	}{{&p.stored, text.Stored}, {&p.insert, text.Insert}, {&p.update, text.Update}} {
		stmt, err := x.db.PrepareContext(ctx, s.text) //nolint:sqlclosecheck // closed with the inbox, or below
		if err != nil {
			for _, s := range opened {
				_ = s.Close() // the other error says more
			}
			return nil, fmt.Errorf("consumer: prepare: %w", err)
		}
		*s.into, opened = stmt, append(opened, stmt)
	}
	x.prepared = p
	return p, nil
}

func (x *inbox) close() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	p := x.prepared
	if p == nil {
		return nil
	}
	x.prepared = nil
	return errors.Join(p.stored.Close(), p.insert.Close(), p.update.Close())
}

// failedAttempt is an error that the event has to pay for. Any other error of a
// call is about the database.
type failedAttempt struct{ err error }

func (e *failedAttempt) Error() string { return e.err.Error() }
func (e *failedAttempt) Unwrap() error { return e.err }

// apply calls the handler of an event, if it is news.
func (x *inbox) apply(ctx context.Context, in *incoming) (verdict, error) {
	h := in.to.entity.handler
	if h.noDB {
		hctx, cancel := context.WithTimeoutCause(ctx, h.timeout, errLate)
		defer cancel()
		err := x.call(ctx, hctx, in, Tx{}, kindWithout(in))
		if err != nil && ctx.Err() != nil {
			return verdict{}, ctx.Err() // the run is over, that is not the event's fault
		}
		return verdict{}, asAttempt(err)
	}
	if x.alone != nil {
		select {
		case x.alone <- struct{}{}:
			defer func() { <-x.alone }()
		case <-ctx.Done():
			return verdict{}, ctx.Err()
		}
	}
	return x.transact(ctx, in)
}

func asAttempt(err error) error {
	if err == nil {
		return nil
	}
	return &failedAttempt{err}
}

// transact runs guard and handler in one transaction.
func (x *inbox) transact(run context.Context, in *incoming) (verdict, error) {
	h := in.to.entity.handler
	ctx, cancel := context.WithTimeout(run, x.cfg.TransactionTimeout+h.timeout)
	defer cancel()
	statements, err := x.statements(ctx)
	if err != nil {
		return verdict{}, err
	}
	tx, err := x.db.BeginTx(ctx, x.options)
	if err != nil {
		return verdict{}, fmt.Errorf("consumer: begin: %w", err)
	}
	s := &txState{tx: tx, patience: x.newPatience(x.log.With(logEntity, in.String()))}
	defer s.end()
	v, have, err := x.guard(ctx, s, statements, in)
	if err != nil || v.outcome != applied {
		_ = tx.Rollback() // nothing was written
		return v, err
	}
	hctx, done := context.WithTimeoutCause(ctx, h.timeout, errLate)
	defer done()
	defer context.AfterFunc(hctx, cancel)() // a handler that goes on finds its transaction gone
	err = x.call(run, hctx, in, Tx{s}, kindOf(in, have))
	if err == nil {
		err = s.over()
	}
	if err != nil {
		return verdict{}, x.undo(run, s, in, err)
	}
	if err := tx.Commit(); err != nil {
		return verdict{}, x.uncommitted(run, hctx, s, in, err)
	}
	return v, nil
}

// guard decides by what is stored, and stores what comes after the event. From
// then on the key is locked.
func (x *inbox) guard(ctx context.Context, s *txState, p *inboxStatements, in *incoming) (v verdict, have state, err error) {
	if err := s.begin(ctx, s.tx); err != nil {
		return v, have, err
	}
	for {
		if have, err = x.stored(ctx, s.tx, p, in); err != nil {
			return v, have, in.guardError(err)
		}
		var then state
		v, then = decide(have, in.change)
		if v.outcome != applied {
			return v, have, nil
		}
		write := p.update
		if have.presence == nothing {
			write = p.insert
		}
		res, err := s.tx.StmtContext(ctx, write).ExecContext(ctx, //nolint:sqlclosecheck // closed by database/sql with the transaction
			then.Revision, x.dialect.Time(then.Updated), then.presence == tombstone, x.cfg.Queue, in.ev.CQRSID, in.key)
		if err != nil {
			return v, have, in.guardError(err)
		}
		if n, err := res.RowsAffected(); err != nil || n > 0 || have.presence != nothing {
			return v, have, err
		}
		// Another process has inserted the key meanwhile; now it can be seen.
	}
}

func (x *inbox) stored(ctx context.Context, tx *sql.Tx, p *inboxStatements, in *incoming) (state, error) {
	var have state
	var updated dialect.Time
	var deleted bool
	err := tx.StmtContext(ctx, p.stored).QueryRowContext(ctx, x.cfg.Queue, in.ev.CQRSID, in.key). //nolint:sqlclosecheck // closed by database/sql with the transaction
													Scan(&have.Revision, &updated, &deleted)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return state{}, nil
	case err != nil:
		return state{}, err
	}
	have.presence, have.Updated = row, updated.Time
	if deleted {
		have.presence = tombstone
	}
	return have, nil
}

// guardError makes an attempt of an error on the event's own values, such as a
// key that the database cannot hold.
func (in *incoming) guardError(err error) error {
	if isData(err) {
		return &failedAttempt{in.fault(nil, nil, err)}
	}
	return fmt.Errorf("consumer: %s: %w", in, err)
}

// undo rolls back after a handler's error, and tells whose fault that was: of the
// database's absence, of a conflict with another transaction, or the event's.
func (x *inbox) undo(run context.Context, s *txState, in *incoming, failure error) error {
	rollback := s.tx.Rollback()
	_, away := s.trouble()
	late := errors.Is(failure, errLate)
	switch {
	case run.Err() != nil: // the run is over
		return run.Err()
	case late && x.reachable(run):
	case late, away, dialect.IsAway(failure), dialect.IsAway(rollback):
		return &lostError{in, failure}
	case dialect.Classify(failure) == dialect.Conflict:
		return failure
	}
	return &failedAttempt{failure}
}

// lostError says that a handler's connection broke.
type lostError struct {
	in  *incoming
	err error
}

func (e *lostError) Error() string {
	return fmt.Sprintf("consumer: %s: the handler lost the database: %v", e.in, e.err)
}
func (e *lostError) Unwrap() error { return e.err }

// reachable tells a slow handler from a database that does not answer.
func (x *inbox) reachable(run context.Context) bool {
	ctx, cancel := context.WithTimeout(run, pingTimeout)
	defer cancel()
	return x.db.PingContext(ctx) == nil
}

// pingTimeout bounds the question whether the database is there.
const pingTimeout = 5 * time.Second

// uncommitted tells why a commit failed although the handler returned nil.
func (x *inbox) uncommitted(run, handler context.Context, s *txState, in *incoming, failure error) error {
	first, away := s.trouble()
	switch {
	case run.Err() != nil:
		return run.Err()
	case errors.Is(context.Cause(handler), errLate):
		return &failedAttempt{x.late(in, nil)}
	case away, dialect.IsAway(failure), dialect.IsConnection(failure):
		return &lostError{in, fmt.Errorf("commit: %w", failure)}
	case dialect.Classify(failure) == dialect.Conflict:
		return fmt.Errorf("consumer: commit: %w", failure)
	case first != nil: // on PostgreSQL nothing works any more after an error
		return &failedAttempt{fmt.Errorf("consumer: %s: the handler returned nil although a statement had failed: %w (commit: %w)", in, first, failure)}
	}
	return &failedAttempt{fmt.Errorf("consumer: %s: commit: %w", in, failure)}
}

// errLate is the cause of a handler's context that has ended by its timeout.
var errLate = errors.New("consumer: the handler's time is up")

// late is the error of a call that was not done in time; err is what it returned.
func (x *inbox) late(in *incoming, err error) error {
	if err == nil || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return fmt.Errorf("consumer: %s: not done within %s: %w", in, in.to.entity.handler.timeout, errLate)
	}
	return fmt.Errorf("consumer: %s: not done within %s: %w: %w", in, in.to.entity.handler.timeout, errLate, err)
}

// goesOn is how long a handler may take to notice that its time is up before that
// is said.
const goesOn = time.Second
