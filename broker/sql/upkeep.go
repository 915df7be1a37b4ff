package sql

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/lib/pq"
)

// ticking is how exactly delays are kept.
const ticking = 100 * time.Millisecond

// someExpired is how many expired messages one statement deletes; if it was as many, there are more.
const someExpired = 1000

// enter makes a consumer, whose number holds messages for as long as the Broker keeps it alive. queue is
// empty if it only looks.
func (b *Broker) enter(ctx context.Context, queue string) (holder int64, err error) {
	name := sql.NullString{String: queue, Valid: queue != ""}
	if err := b.row(ctx, b.sql.register, []any{name, b.cfg.Lease.Milliseconds()}, &holder); err != nil {
		return 0, outage("subscribe", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.holders[holder] = name
	return holder, nil
}

// leave gives back what a consumer still holds. If the database is away, others do when its lease is over.
func (b *Broker) leave(ctx context.Context, holder int64) {
	b.mu.Lock()
	delete(b.holders, holder)
	b.mu.Unlock()
	_, err := b.exec(ctx, b.sql.putAllBack, holder)
	if err == nil {
		b.renewing.Lock() // one that has begun would come behind
		_, err = b.exec(ctx, b.sql.forget, holder)
		b.renewing.Unlock()
	}
	if err != nil {
		b.log.Warn("a consumer could not be taken off", "error", err)
	}
}

// upkeep keeps this Broker's consumers alive and does what no server does here: it hands messages over
// whose time has come, gives back what dead consumers held, and deletes what has expired.
func (b *Broker) upkeep(ctx context.Context) {
	b.keeping.Go(func() { b.every(ctx, "keep the lease", b.cfg.Lease/4, b.keepAlive) })
	b.keeping.Go(func() { b.every(ctx, "keep the queues", b.cfg.Lease/4, b.keepQueues) })
	b.keeping.Go(func() { b.every(ctx, "look after dead consumers", b.cfg.Lease/4, b.tidy) })
	b.every(ctx, "look for due messages", ticking, b.tick)
}

// every calls do again and again until ctx ends, and says when it begins and ceases to fail.
func (b *Broker) every(ctx context.Context, what string, period time.Duration, do func(context.Context) error) {
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	failing := false
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		err := do(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			b.log.Warn("the database cannot be used", "to", what, "error", err)
		case err == nil && failing:
			b.log.Info("the database can be used again", "to", what)
		}
		failing = err != nil
	}
}

// keepAlive renews the lease of what this Broker's consumers hold.
func (b *Broker) keepAlive(ctx context.Context) error {
	b.mu.Lock()
	holders := slices.Collect(maps.Keys(b.holders))
	b.mu.Unlock()
	var errs []error
	for _, holder := range holders {
		errs = append(errs, b.renew(ctx, holder))
	}
	return errors.Join(errs...)
}

// renew renews the lease of a consumer that has not left.
func (b *Broker) renew(ctx context.Context, holder int64) error {
	b.renewing.Lock()
	defer b.renewing.Unlock()
	b.mu.Lock()
	queue, there := b.holders[holder]
	b.mu.Unlock()
	if !there {
		return nil
	}
	_, err := b.exec(ctx, b.sql.keepAlive, holder, queue, b.cfg.Lease.Milliseconds())
	return err
}

// keepQueues makes the queues again that somebody deleted under this Broker's subscriptions. It waits
// while a queue is being deleted, so the lease does not wait for it.
func (b *Broker) keepQueues(ctx context.Context) error {
	b.mu.Lock()
	queues := map[string]struct{}{}
	for sub := range b.subs {
		queues[sub.queue] = struct{}{}
	}
	b.mu.Unlock()
	var errs []error
	for queue := range queues {
		errs = append(errs, b.keepQueue(ctx, queue))
	}
	return errors.Join(errs...)
}

func (b *Broker) keepQueue(ctx context.Context, queue string) error {
	if !take(ctx, b.making) {
		return ctx.Err()
	}
	defer func() { <-b.making }()
	b.mu.Lock()
	bound, wanted := b.bindings[queue]
	topics := slices.Collect(maps.Keys(bound))
	b.mu.Unlock()
	if !wanted { // this Broker has deleted it
		return nil
	}
	whole, err := b.isBound(ctx, queue, topics)
	if err == nil && !whole {
		b.log.Warn("a queue was deleted while it was consumed, and is made again", "queue", queue)
		err = b.bind(ctx, queue, topics)
	}
	return err
}

// take puts a token into a channel, and reports whether that was before ctx ended.
func take(ctx context.Context, tokens chan struct{}) bool {
	select {
	case tokens <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// isBound reports whether a queue has the bindings.
func (b *Broker) isBound(ctx context.Context, queue string, topics []string) (is bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.ConfirmTimeout)
	defer cancel()
	err = b.db.QueryRowContext(ctx, b.sql.hasBindings, queue, pq.Array(topics)).Scan(&is)
	return is, err
}

// tidy looks after all queues, not only this Broker's: the one that is to blame may have no consumer any
// more.
func (b *Broker) tidy(ctx context.Context) error {
	if _, err := b.exec(ctx, b.sql.bury); err != nil {
		return err
	}
	n, err := b.exec(ctx, b.sql.orphans)
	if err != nil {
		return err
	}
	if n > 0 {
		b.log.Info("messages of a vanished consumer were given back", "messages", n)
		b.stir()
	}
	for {
		n, err := b.exec(ctx, b.sql.expired)
		if err != nil || n < someExpired {
			return err
		}
	}
}

// tick hands over messages whose time has come. A Broker that only publishes leaves that to the others.
func (b *Broker) tick(ctx context.Context) error {
	b.mu.Lock()
	idle := len(b.subs) == 0
	b.mu.Unlock()
	if idle {
		return nil
	}
	n, err := b.exec(ctx, b.sql.due)
	if n > 0 {
		b.stir()
	}
	return err
}

// stir tells all subscriptions that there may be messages.
func (b *Broker) stir() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for sub := range b.subs {
		sub.stir()
	}
}
