package relay

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"time"
)

// shard is the one lease there is.
const shard = 0

// lease is the right to relay, until another holder's term begins.
type lease struct {
	*store
	holder string
	term   int64
	ttl    time.Duration
	// until is when the lease runs out by this process's monotonic clock, counted
	// from before the database was asked, so never later than the database has it.
	until time.Time
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

// acquire takes the lease if nobody has it. A nil lease without an error means
// that somebody has.
func (s *store) acquire(ctx context.Context, holder string, ttl time.Duration) (*lease, error) {
	vacant, err := bounded(ctx, callTimeout, func(ctx context.Context) (vacant bool, err error) {
		err = s.query(s.db).QueryRowContext(ctx, s.sql.Vacant, shard).Scan(&vacant)
		return vacant, err
	})
	if err != nil {
		return nil, fmt.Errorf("look at the lease: %w", err)
	}
	if !vacant {
		return nil, nil //nolint:nilnil // somebody else's lease is neither ours nor an error
	}
	l := &lease{store: s, holder: holder, ttl: ttl, until: time.Now().Add(ttl)}
	l.term, err = bounded(ctx, callTimeout, func(ctx context.Context) (int64, error) { return s.term(ctx, holder, ttl) })
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, nil //nolint:nilnil // another relay was quicker
	case err != nil:
		return nil, fmt.Errorf("take the lease: %w", err)
	}
	return l, nil
}

// term takes the lease and returns its new term, or sql.ErrNoRows.
func (s *store) term(ctx context.Context, holder string, ttl time.Duration) (term int64, err error) {
	q := s.query(s.db)
	if s.sql.Found == "" {
		err = q.QueryRowContext(ctx, s.sql.Acquire, shard, holder, ttl.Milliseconds()).Scan(&term)
		return term, err
	}
	if _, err := q.ExecContext(ctx, s.sql.Found, shard); err != nil {
		return 0, err
	}
	result, err := q.ExecContext(ctx, s.sql.Acquire, shard, holder, ttl.Milliseconds())
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
		if time.Until(l.until) < every/2 {
			lost(fmt.Errorf("%w: not renewed in time: %w", errLeaseLost, err))
			return
		}
	}
}

func (l *lease) renew(ctx context.Context, every time.Duration, position int64) error {
	// The call must be over, one way or the other, while the lease still holds.
	asked := time.Now()
	result, err := bounded(ctx, time.Until(l.until)-every/2, func(ctx context.Context) (sql.Result, error) {
		return l.query(l.db).ExecContext(ctx, l.sql.Renew, shard, l.holder, l.term, l.ttl.Milliseconds(), position)
	})
	if err != nil {
		return fmt.Errorf("renew the lease: %w", err)
	}
	if n, err := result.RowsAffected(); err == nil && n == 0 {
		return fmt.Errorf("%w: another relay has taken over", errLeaseLost)
	}
	l.until = asked.Add(l.ttl)
	return nil
}

// release gives the lease up, so that another relay need not wait for its end.
func (l *lease) release(ctx context.Context) error {
	_, err := bounded(ctx, callTimeout, func(ctx context.Context) (sql.Result, error) {
		return l.query(l.db).ExecContext(ctx, l.sql.Release, shard, l.holder, l.term)
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
		return l.query(l.db).ExecContext(ctx, l.sql.Asleep, shard, l.holder, l.term, asleep)
	})
	if err != nil {
		return fmt.Errorf("note being asleep: %w", err)
	}
	return nil
}
