package relay

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/lockstep-go/lockstep/internal/dialect"
)

// share is one of the shards that the outbox is split into by key.
type share struct{ shard, shards int }

// lease is the right to relay, until another holder's term begins.
type lease struct {
	*store
	share  share
	holder string
	term   int64
	ttl    time.Duration
	// until is when the lease runs out by this process's monotonic clock, counted
	// from before the database was asked, so never later than the database has it. Only
	// keep changes it.
	until atomic.Pointer[time.Time]
	// noted says that the lease asks writers to notify. The reader owns it.
	noted bool
}

// errLeaseLost ends a session whose lease another relay has, or may have.
var errLeaseLost = errors.New("lease lost")

// holderName tells relays apart in the lease row and in logs.
func holderName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s/%d/%s", host, os.Getpid(), rand.Text()[:8])
}

// acquire takes the lease of a share if nobody has it. A nil lease without an
// error means that somebody has, or that another number of shards is wanted or
// still held: leases of two numbers never overlap, so that no key has two owners.
func (s *store) acquire(ctx context.Context, of share, holder string, ttl time.Duration) (*lease, error) {
	vacant, err := bounded(ctx, callTimeout, func(ctx context.Context) (vacant bool, err error) {
		err = s.query(s.db).QueryRowContext(ctx, s.sql.Vacant, of.shard).Scan(&vacant)
		return vacant, err
	})
	if err != nil {
		return nil, fmt.Errorf("look at the lease: %w", err)
	}
	if !vacant {
		return nil, nil //nolint:nilnil // somebody else's lease is neither ours nor an error
	}
	l := &lease{store: s, share: of, holder: holder, ttl: ttl}
	l.extend(time.Now())
	l.term, err = bounded(ctx, callTimeout, func(ctx context.Context) (int64, error) { return s.agree(ctx, of, holder, ttl) })
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, nil //nolint:nilnil // another relay was quicker
	case err != nil:
		return nil, fmt.Errorf("take the lease: %w", err)
	}
	return l, nil
}

// agree takes the lease while the number of shards is locked. All that take a
// lease or change the number go one after the other, so each sees what those
// before it hold.
func (s *store) agree(ctx context.Context, of share, holder string, ttl time.Duration) (term int64, err error) {
	err = s.brief(ctx, s.shortTx(), func(q dialect.Querier) error {
		if _, err := q.ExecContext(ctx, s.sql.Agree); err != nil {
			return err
		}
		var wanted int
		var others bool
		if err := q.QueryRowContext(ctx, s.sql.Agreed, of.shards).Scan(&wanted, &others); err != nil {
			return err
		}
		if wanted != of.shards || others {
			return sql.ErrNoRows
		}
		term, err = s.term(ctx, q, of, holder, ttl)
		return err
	})
	return term, err
}

// shortTx makes each statement see what was committed before it, whatever the
// database's default is. SQLite has one writer at a time.
func (s *store) shortTx() *sql.TxOptions {
	if s.dialect == dialect.SQLite {
		return nil
	}
	return &sql.TxOptions{Isolation: sql.LevelReadCommitted}
}

// term takes the lease and returns its new term, or sql.ErrNoRows.
func (s *store) term(ctx context.Context, q dialect.Querier, of share, holder string, ttl time.Duration) (term int64, err error) {
	if s.sql.Found == "" {
		err = q.QueryRowContext(ctx, s.sql.Acquire, of.shard, holder, ttl.Milliseconds(), of.shards).Scan(&term)
		return term, err
	}
	if _, err := q.ExecContext(ctx, s.sql.Found, of.shard); err != nil {
		return 0, err
	}
	result, err := q.ExecContext(ctx, s.sql.Acquire, of.shard, holder, ttl.Milliseconds(), of.shards)
	if err != nil {
		return 0, err
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return 0, errors.Join(err, sql.ErrNoRows)
	}
	return result.LastInsertId()
}

// keep renews the lease until ctx ends, and calls lost when that was not
// possible in time.
func (l *lease) keep(ctx context.Context, every time.Duration, position func() int64, lost func(error)) {
	renew := time.NewTicker(every)
	defer renew.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-renew.C:
		}
		err := l.renew(ctx, every, position())
		switch {
		case err == nil || ctx.Err() != nil:
		case errors.Is(err, errLeaseLost):
			lost(err)
			return
		}
		if l.left() < every/2 {
			lost(fmt.Errorf("%w: not renewed in time: %w", errLeaseLost, err))
			return
		}
	}
}

func (l *lease) renew(ctx context.Context, every time.Duration, position int64) error {
	// The call must be over, one way or the other, while the lease still holds.
	asked := time.Now()
	result, err := bounded(ctx, l.left()-every/2, func(ctx context.Context) (sql.Result, error) {
		return l.query(l.db).ExecContext(ctx, l.sql.Renew, l.share.shard, l.holder, l.term, l.ttl.Milliseconds(), position)
	})
	if err != nil {
		return fmt.Errorf("renew the lease: %w", err)
	}
	if n, err := result.RowsAffected(); err == nil && n == 0 {
		return fmt.Errorf("%w: it has run out, or another relay has taken over", errLeaseLost)
	}
	l.extend(asked)
	return nil
}

func (l *lease) extend(from time.Time) {
	until := from.Add(l.ttl)
	l.until.Store(&until)
}

func (l *lease) left() time.Duration { return time.Until(*l.until.Load()) }

// holds returns when the lease has not run out, or when ctx has ended. A process that was
// halted goes on everywhere at once: keep takes a moment to find out that it was for too
// long, and nothing may leave until then.
func (l *lease) holds(ctx context.Context) {
	for l.left() <= 0 && ctx.Err() == nil {
		wait(ctx, 10*time.Millisecond)
	}
}

// release gives the lease up, so that another relay need not wait for its end.
func (l *lease) release(ctx context.Context) error {
	_, err := bounded(ctx, callTimeout, func(ctx context.Context) (sql.Result, error) {
		return l.query(l.db).ExecContext(ctx, l.sql.Release, l.share.shard, l.holder, l.term)
	})
	if err != nil {
		return fmt.Errorf("release the lease: %w", err)
	}
	return nil
}

// asleep tells writers whether to notify.
func (l *lease) asleep(ctx context.Context, asleep bool) error {
	l.noted = asleep
	_, err := bounded(ctx, callTimeout, func(ctx context.Context) (sql.Result, error) {
		return l.query(l.db).ExecContext(ctx, l.sql.Asleep, l.share.shard, l.holder, l.term, asleep)
	})
	if err != nil {
		return fmt.Errorf("note being asleep: %w", err)
	}
	return nil
}
