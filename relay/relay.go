// Package relay is the read side of the outbox: it forwards committed messages
// to a broker and deletes them once the broker has confirmed them.
//
// # What it guarantees
//
// Nothing is lost: a row leaves the outbox only after the broker has confirmed
// that very message, and each deletion names exactly the confirmed rows. A crash
// between the two repeats messages.
//
// Messages of one key reach the broker in the order of their commits. When one
// is refused, later ones of its key wait for it, other keys do not. Messages of
// that key which were already under way are sent again behind it, so the last
// word is always the newest.
//
// A transaction that stays open delays its own rows only.
//
// An unreachable broker or database pauses the relay and costs no attempts. Only
// a message that the broker refused spends one.
//
// # What it does not
//
// A message that no queue is bound to reaches nobody: what becomes of it is for
// [Config.UnroutableBroadcast] to say. Handlers of other systems may see a message
// twice; a replica's revision guard does not mind.
//
// # Use
//
//	broker, err := rabbitmq.Open(ctx, brokerURL, rabbitmq.Config{}) // or any Watermill publisher
//	…
//	r, err := relay.New(db, broker, relay.Config{Logger: log})
//	…
//	err = r.Run(ctx) // until ctx ends; then waits for what is under way
//
// The command `relay run` is this and no more.
//
// # Several relays
//
// Any number may run on one outbox. One holds a lease and works; the others
// stand by and take over when it stops, dies or is cut off. With Config.Shards
// they work side by side, each on a part of the keys. A former owner that
// is still sending can only repeat messages.
//
// A [Relay] logs outages once when they begin and once when they end, and
// messages that are refused or dead. It starts no goroutine outside of
// [Relay.Run].
package relay

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"go.opentelemetry.io/otel/trace"

	"github.com/lockstep-go/lockstep/internal/dialect"
	"github.com/lockstep-go/lockstep/internal/tracing"
)

// Relay forwards one outbox. Make it with New, run it with Run.
type Relay struct {
	store     *store
	log       *slog.Logger
	pipelined PipelinedPublisher
	lanes     *laned
	wake      <-chan struct{}
	policy    policy

	holder                               string
	batchSize                            int
	batchBytes                           int64
	poll, leaseTTL, leaseRenew, drainFor time.Duration
	look                                 time.Duration
	shardsWanted                         int
	collapses                            bool
	tracer                               trace.Tracer // nil: off

	owned sync.Map // chan struct{} of each session, for hints of writers

	stats  stats
	pauses pauses

	warnedMu sync.Mutex
	warned   map[string]struct{} // topics that no queue was bound to
}

// connections is how many database connections a relay uses at once: to read, to
// settle, to keep the lease.
const connections = 3

// Keys of log attributes.
const (
	keyOutboxID = "outbox_id"
	keyTopic    = "topic"
	keyKey      = "key"
	keyAttempts = "attempts"
	keyError    = "error"
	keyTerm     = "term"
	keyHolder   = "holder"
	keyShard    = "shard"
)

// errStopped ends the keeping of a lease that is not needed any more.
var errStopped = errors.New("stopped")

// ErrNotMigrated reports that the outbox's tables are missing.
var ErrNotMigrated = errors.New("database is not migrated")

// DrainError reports that messages were still under way when Run had to end.
// They are in the outbox and will be sent, perhaps again, by the next owner.
type DrainError struct{ After time.Duration }

func (e *DrainError) Error() string {
	return fmt.Sprintf("relay: not drained after %v: what was under way stays in the outbox", e.After)
}

// New checks the configuration and returns a relay from db to pub. It does no
// I/O. All faults are reported at once.
func New(db *sql.DB, pub message.Publisher, cfg Config) (*Relay, error) {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf("relay: "+format, args...)) }
	if db == nil {
		fault("the database is nil")
	}
	if db != nil {
		need := connections
		if cfg.Look > 0 {
			need++
		}
		if n := db.Stats().MaxOpenConnections; n > 0 && n < need {
			fault("the database pool is limited to %d connections: allow at least %d", n, need)
		}
	}
	if pub == nil {
		fault("the publisher is nil")
	}
	if cfg.Dialect == "" && db != nil {
		detected, err := dialect.Detect(db)
		if err != nil {
			fault("%w", err)
		}
		cfg.Dialect = detected
	} else if !cfg.Dialect.Valid() {
		fault("Config.Dialect is %q: use one of %s", cfg.Dialect, dialect.Known)
	}
	cfg.setDefaults()
	cfg.validate(fault)
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	r := &Relay{
		store: newStore(db, cfg.Dialect), log: cfg.Logger, wake: cfg.Wake, holder: holderName(), warned: map[string]struct{}{},
		policy:    policy{cfg.MaxAttempts, cfg.UnroutableBroadcast, cfg.UnroutableDirect},
		batchSize: cfg.BatchSize, batchBytes: cfg.BatchBytes, poll: cfg.Poll,
		leaseTTL: cfg.LeaseTTL, leaseRenew: cfg.LeaseRenew, drainFor: cfg.DrainTimeout, look: cfg.Look,
		shardsWanted: cfg.Shards, collapses: cfg.Collapse,
	}
	if cfg.TracerProvider != nil {
		r.tracer = cfg.TracerProvider.Tracer(tracing.Name)
	}
	if p, ok := pub.(PipelinedPublisher); ok {
		r.pipelined = p
	} else {
		r.lanes = &laned{Publisher: pub, lanes: cfg.Lanes, seed: maphash.MakeSeed()}
	}
	return r, nil
}

// Check looks for the outbox's tables, and reports a database that cannot be
// reached or is not migrated. Run does it too, but waits for the database.
func (r *Relay) Check(ctx context.Context) error {
	for _, table := range []string{"outbox", "outbox_failures", "outbox_dead", "outbox_shards", "outbox_relays", "outbox_leases"} {
		_, err := r.store.dialect.LoadTable(ctx, r.store.db, table)
		switch {
		case errors.Is(err, dialect.ErrNoTable):
			return fmt.Errorf("relay: %w: run `relay migrate up`: %w", ErrNotMigrated, err)
		case err != nil:
			return fmt.Errorf("relay: %w", dialect.WithCause(ctx, err))
		}
	}
	return nil
}

// Run forwards messages until ctx ends, then settles what is under way and
// returns nil. It waits for its turn while another relay holds the lease. It
// returns early only with [ErrNotMigrated]. A drain that takes longer than
// Config.DrainTimeout gives a [DrainError].
func (r *Relay) Run(ctx context.Context) error {
	if r.look > 0 {
		watching, stop := context.WithCancel(ctx)
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			r.watch(watching)
		}()
		defer func() { stop(); <-watched }()
	}
	if r.wake != nil {
		spreading, stop := context.WithCancel(ctx)
		spread := make(chan struct{})
		go func() {
			defer close(spread)
			r.spreadWake(spreading)
		}()
		defer func() { stop(); <-spread }()
	}
	c := &crew{Relay: r, working: map[int]context.CancelFunc{}, ended: make(chan ending)}
	return c.run(ctx)
}

// spreadWake hands each hint of writers on to all sessions.
func (r *Relay) spreadWake(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		}
		r.owned.Range(func(wake, _ any) bool {
			select {
			case wake.(chan struct{}) <- struct{}{}:
			default: // one hint is as good as two
			}
			return true
		})
	}
}

// lead relays for as long as the lease holds and ctx lasts. Its error is about
// an end that was not clean; a lost lease is not one.
func (r *Relay) lead(ctx context.Context, l *lease) error {
	r.log.Info("relaying", keyTerm, l.term, keyHolder, l.holder, keyShard, l.share.shard, "shards", l.share.shards)
	r.stats.began(l.share, l.term)
	defer r.stats.ended(l.share)
	defer r.left(l.share)

	// hard outlives ctx by the drain, and ends at once with the lease.
	hard, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(errStopped)
	drained := make(chan struct{})
	defer close(drained)
	var current atomic.Pointer[ledger]
	current.Store(newLedger())
	var underWay int
	said := make(chan struct{})
	stopDrain := context.AfterFunc(ctx, func() {
		underWay = current.Load().underWay()
		r.log.Info("draining", keyShard, l.share.shard, "messages", underWay)
		close(said)
		select {
		case <-drained:
		case <-time.After(r.drainFor):
			cancel(&DrainError{After: r.drainFor})
		}
	})
	defer stopDrain()

	kept := make(chan struct{})
	go func() {
		defer close(kept)
		l.keep(hard, r.leaseRenew, func() int64 { return current.Load().readPosition() }, cancel)
	}()
	away, err := r.sessions(ctx, hard, l, &current)
	stillOurs := hard.Err() == nil || errors.As(err, new(*DrainError))
	cancel(errStopped)
	<-kept
	if err == nil && ctx.Err() != nil {
		if <-said; away != nil && underWay > 0 {
			r.log.Warn("not drained: what was under way stays in the outbox", keyShard, l.share.shard, keyError, away)
		} else {
			r.log.Info(fmt.Sprintf("drained %d", underWay), keyShard, l.share.shard)
		}
	}
	if stillOurs {
		if err := l.release(context.WithoutCancel(ctx)); err != nil {
			r.log.Debug("the lease runs out by itself", keyError, err)
		}
	}
	if errors.Is(err, errLeaseLost) {
		r.log.Warn("lease lost, standing by", keyTerm, l.term, keyError, err)
		return nil
	}
	return err
}

// sessions runs one session after the other: an outage ends one, and the next
// begins with the table as it is. away is the one that it met while it drained, which
// is no error.
func (r *Relay) sessions(ctx, hard context.Context, l *lease, current *atomic.Pointer[ledger]) (away, err error) {
	failures := 0
	var wake chan struct{}
	if r.wake != nil {
		wake = make(chan struct{}, 1)
		r.owned.Store(wake, nil)
		defer r.owned.Delete(wake)
	}
	lanes := r.lanes.fresh()
	defer r.stats.untell(l.share)
	for ctx.Err() == nil && hard.Err() == nil {
		s := &session{Relay: r, lease: l, ledger: newLedger(), settled: make(chan struct{}, 1), wake: wake, lanes: lanes}
		if r.collapses {
			s.fold = newFolder()
		}
		current.Store(s.ledger)
		began := r.stats.published.Load()
		err := s.run(ctx, hard)
		if r.stats.published.Load() > began {
			failures = 0
		}
		if err == nil || hard.Err() != nil {
			continue
		}
		if ctx.Err() != nil {
			return err, nil
		}
		failures++
		r.pause(l.share, err)
		wait(ctx, outageBackoff(failures))
	}
	return nil, context.Cause(hard)
}

// outageBackoff waits longer with each session in a row that got nothing done.
func outageBackoff(failures int) time.Duration {
	const longest = 10 * time.Second
	d := min(longest, minBackoff<<min(failures-1, 8))
	return d/2 + rand.N(d/2) //nolint:gosec // jitter is no secret
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
