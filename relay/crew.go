package relay

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-go/lockstep/internal/dialect"
)

// crew is the shards that one relay works on: at most its share of those that
// the relays of an outbox split among themselves. It belongs to Run's goroutine.
type crew struct {
	*Relay
	shards  int // that the present leases are of
	working map[int]context.CancelFunc
	ended   chan ending
	held    bool // relays are counted, and this one is among them
	idle    bool // it was said that this relay stands by
}

// ending is a shard whose work is over.
type ending struct {
	shard int
	err   error
}

// run takes shards and gives them up until ctx ends.
func (c *crew) run(ctx context.Context) error {
	fatal := c.keepShare(ctx)
	c.shrink(0)
	for len(c.working) > 0 {
		e := <-c.ended
		delete(c.working, e.shard)
		fatal = errors.Join(fatal, e.err)
	}
	if c.held {
		if err := c.store.leave(context.WithoutCancel(ctx), c.holder); err != nil {
			c.log.Debug("other relays take a while to notice the end of this one", keyError, err)
		}
	}
	return fatal
}

func (c *crew) keepShare(ctx context.Context) error {
	for failures := 0; ctx.Err() == nil; {
		pace := c.leaseTTL/10 + rand.N(c.leaseTTL/20) //nolint:gosec // jitter is no secret
		err := c.adjust(ctx)
		c.stats.asked(err == nil || len(c.working) > 0)
		switch {
		case err != nil && ctx.Err() != nil:
			return nil //nolint:nilerr // the end was asked for
		case dialect.IsMissingTable(err):
			return fmt.Errorf("relay: %w: run `relay migrate up`: %w", ErrNotMigrated, err)
		case err != nil:
			failures++
			if len(c.working) == 0 { // else the sessions know better
				c.pause(nowhere, err)
			}
			pace = outageBackoff(failures)
		default:
			failures = 0
		}
		if err := c.await(ctx, pace); err != nil {
			return err
		}
	}
	return nil
}

// await waits for the end of a shard's work, which it takes note of, or for a while.
func (c *crew) await(ctx context.Context, pace time.Duration) error {
	timer := time.NewTimer(pace)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case e := <-c.ended:
		return c.done(ctx, e)
	}
	return nil
}

// done takes note of the end of a shard's work. Its error ends Run, unless it is
// about a drain that this relay itself asked for.
func (c *crew) done(ctx context.Context, e ending) error {
	delete(c.working, e.shard)
	if ctx.Err() == nil && errors.As(e.err, new(*DrainError)) {
		c.log.Warn("a shard was given up before it was drained", keyShard, e.shard, keyError, e.err)
		return nil
	}
	return e.err
}

// adjust makes what this relay works on its share.
func (c *crew) adjust(ctx context.Context) error {
	if c.shardsWanted > 0 { // once; whoever starts later may want another number
		if err := c.store.want(ctx, c.shardsWanted); err != nil {
			return err
		}
		c.shardsWanted = 0
	}
	wanted, relays, err := c.store.survey(ctx)
	if err != nil {
		return err
	}
	if c.held = c.held || wanted > 1; c.held {
		if err := c.store.attend(ctx, c.holder, c.leaseTTL); err != nil {
			return err
		}
	}
	if wanted != c.shards {
		if len(c.working) > 0 {
			c.log.Info("the number of shards changes", "from", c.shards, "to", wanted)
		}
		c.shrink(0)
		if len(c.working) > 0 {
			return nil // all that is under way is settled first
		}
		c.shards = wanted
	}
	fair := (wanted + max(relays, 1) - 1) / max(relays, 1)
	c.shrink(fair)
	first := rand.N(wanted) //nolint:gosec // where to begin is no secret
	for i := 0; i < wanted && len(c.working) < fair; i++ {
		if err := c.take(ctx, share{(first + i) % wanted, wanted}); err != nil {
			return err
		}
	}
	return c.standBy(ctx)
}

// standBy says once that others hold what there is to hold.
func (c *crew) standBy(ctx context.Context) error {
	if len(c.working) > 0 || c.idle {
		c.idle = c.idle && len(c.working) == 0
		return nil
	}
	leases, err := bounded(ctx, callTimeout, c.store.leases)
	if err != nil {
		return fmt.Errorf("look who holds the lease: %w", err)
	}
	var holders []string
	for _, l := range leases {
		if l.Left > 0 && !slices.Contains(holders, l.Holder) {
			holders = append(holders, l.Holder)
		}
	}
	if c.idle = len(holders) > 0; c.idle {
		c.log.Info("standing by, the lease is held by "+strings.Join(holders, ", "), keyHolder, c.holder)
	}
	return nil
}

// shrink asks the work on all but n shards to end.
func (c *crew) shrink(n int) {
	for shard, stop := range c.working {
		if len(c.working)-c.stopping() <= n {
			return
		}
		if stop != nil {
			stop()
			c.working[shard] = nil
		}
	}
}

// stopping counts the shards whose work has been asked to end.
func (c *crew) stopping() (n int) {
	for _, stop := range c.working {
		if stop == nil {
			n++
		}
	}
	return n
}

// take begins to work on a shard if it is vacant.
func (c *crew) take(ctx context.Context, of share) error {
	if _, working := c.working[of.shard]; working {
		return nil
	}
	l, err := c.store.acquire(ctx, of, c.holder, c.leaseTTL)
	if err != nil || l == nil {
		return err
	}
	working, stop := context.WithCancel(ctx)
	c.working[of.shard] = stop
	go func() {
		defer stop()
		c.ended <- ending{of.shard, c.lead(working, l)}
	}()
	return nil
}

func (s *store) want(ctx context.Context, shards int) error {
	return s.exec(ctx, "set the number of shards", s.sql.Want, shards)
}

func (s *store) attend(ctx context.Context, holder string, ttl time.Duration) error {
	return s.exec(ctx, "attend", s.sql.Attend, holder, ttl.Milliseconds())
}

func (s *store) leave(ctx context.Context, holder string) error {
	return s.exec(ctx, "leave", s.sql.Leave, holder)
}

func (s *store) exec(ctx context.Context, what, query string, args ...any) error {
	_, err := bounded(ctx, callTimeout, func(ctx context.Context) (struct{}, error) {
		_, err := s.query(s.db).ExecContext(ctx, query, args...)
		return struct{}{}, err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// survey returns the number of shards that is wanted, and of relays that share them.
func (s *store) survey(ctx context.Context) (wanted, relays int, err error) {
	seen, err := bounded(ctx, callTimeout, func(ctx context.Context) (n [2]int, err error) {
		err = s.query(s.db).QueryRowContext(ctx, s.sql.Survey).Scan(&n[0], &n[1])
		return n, err
	})
	if err != nil {
		return 0, 0, fmt.Errorf("look at the shards: %w", err)
	}
	return seen[0], seen[1], nil
}
