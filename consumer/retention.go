package consumer

import (
	"context"
	"fmt"
	"time"

	"github.com/lockstep-go/lockstep/internal/dialect"
)

// How old guards are removed.
const (
	purgeBatch   = 500
	purgePause   = 50 * time.Millisecond // between batches: others want the database, too
	purgeEvery   = time.Hour
	purgeTimeout = 30 * time.Second // of one batch
)

// Purge removes what is remembered of keys that were deleted longer than
// [Config.TombstoneRetention] ago, for the tables and handlers registered here, and
// returns how many keys those were. Run does that by itself, now and then; it is
// for services that only call HandleMessage or Apply. It works in small batches
// that hold up nobody and blocks until all are done or ctx ends.
//
// What belongs to a key that lives is never removed.
func (c *Consumer) Purge(ctx context.Context) (removed int64, err error) {
	type target struct{ statement, of string }
	var targets []target
	c.mu.Lock()
	handlers := false
	for _, e := range c.entities {
		if e.handler == nil {
			targets = append(targets, target{c.dialect.ExpiredTombstones(), e.table.Name})
		} else {
			handlers = handlers || !e.handler.noDB
		}
	}
	c.mu.Unlock()
	if handlers {
		targets = append(targets, target{c.dialect.ExpiredInbox(), c.cfg.Queue})
	}
	for _, t := range targets {
		n, err := c.purge(ctx, t.statement, t.of)
		removed += n
		if err != nil {
			return removed, fmt.Errorf("consumer: forget deleted keys of %s: %w", t.of, err)
		}
	}
	return removed, nil
}

// purge removes all that one statement is for, batch by batch.
func (c *Consumer) purge(ctx context.Context, statement, of string) (removed int64, err error) {
	for {
		n, err := c.purgeSome(ctx, statement, of)
		removed += n
		c.stats.add(func(s *Stats) { s.Purged += n })
		if err != nil || n < purgeBatch {
			return removed, err
		}
		if !sleep(ctx, purgePause) {
			return removed, ctx.Err()
		}
	}
}

func (c *Consumer) purgeSome(ctx context.Context, statement, of string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, purgeTimeout)
	defer cancel()
	done, err := c.db.ExecContext(ctx, statement, of, c.cfg.TombstoneRetention.Seconds(), purgeBatch)
	switch {
	case dialect.Classify(err) == dialect.Conflict:
		return 0, nil // somebody deletes just now: another time
	case err != nil:
		return 0, err
	}
	return done.RowsAffected()
}

// forget purges now and then until ctx ends.
func (r *runner) forget(ctx context.Context) {
	for {
		removed, err := r.Purge(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			r.log.Info("old tombstones stay for now", logError, err)
		case removed > 0:
			r.log.Debug("removed old tombstones", "keys", removed)
		}
		if !sleep(ctx, purgeEvery) {
			return
		}
	}
}

// compareRetention reports an entity whose messages may live longer than the
// tombstones that guard against them. How long functions of the user's go on is
// not known.
func (c *Consumer) compareRetention(call string, e *entity) error {
	life := c.cfg.DeadLetterTTL + e.policy.life()
	if c.cfg.TombstoneRetention > life {
		return nil
	}
	return fmt.Errorf("consumer: %s %q: Config.TombstoneRetention is %s, and a message may come back after %s, its retries and its "+
		"time as a dead letter: make it longer, or DeadLetterTTL, MaxRetries or RetryDelay less", call, e.id, c.cfg.TombstoneRetention, life)
}
