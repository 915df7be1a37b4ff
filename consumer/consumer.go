// Package consumer applies events to the tables of a replica service.
//
// It takes what has arrived, applies it in one transaction and acknowledges it
// after the commit. A table replica needs no code:
//
//	c, err := consumer.New(db, broker, consumer.Config{Queue: "billing"})
//	…
//	err = c.Table("account", consumer.Table{
//		Name:    "account_ref",
//		Columns: map[string]string{"id": "id", "name": "title"},
//	})
//	…
//	err = c.Run(ctx)
//
// A handler is called with each event, in the transaction that notes it as seen:
//
//	err = consumer.Handle(c, "author", func(ctx context.Context, tx consumer.Tx, ev consumer.Event[Author]) error {
//		_, err := tx.ExecContext(ctx, `…`, ev.Key, ev.Data.Name)
//		return err
//	})
//
// See [Handle] for what it may rely on, [HandleNoDB] for effects outside of the
// database, and [Consumer.HandleMessage] for Watermill's router.
//
// # What is promised
//
// The newest state wins: a late, repeated or reordered message never overwrites
// a newer row, never brings a deleted row back and never deletes a row that was
// created anew. Deleted rows leave a tombstone for that. So a message may be
// delivered any number of times, and nothing is lost: a message is acknowledged
// only after its transaction, or after a copy of it was confirmed by the broker.
//
// A message that does not fit its table is found and set apart; the others of
// its batch are applied. It is tried again after a delay, which holds back
// nothing, and ends in the dead-letter queue when it keeps failing. What cannot
// be understood at all goes there at once, byte for byte, with the reason in its
// headers. No body can stop the consumer.
//
// Handlers keep to the same rules. Events of one key come to them one at a time
// and in order. What a handler does in its transaction is done once for each
// event, what it does elsewhere at least once.
//
// When the database or the broker is away, the consumer waits. That costs no
// message an attempt.
//
// # What is not promised
//
// One transaction here for each of the master's, and order between different
// keys. So a row may arrive before the one that its foreign key refers to. Its
// message is parked and applied as soon as the other row is there, at the latest by
// its retries; see [Config.MaxParked]. A foreign key with a column that no field is
// mapped to is satisfied by retries alone.
//
// Everything in the package may be used from several goroutines. Several
// processes may run a consumer of one queue and share the work. They must declare
// the same entities: a message goes to any of them, and one that does not know its
// entity makes a dead letter of it, for all. Another set of entities needs a queue
// of its own.
package consumer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"go.opentelemetry.io/otel/trace"

	"github.com/lockstep-go/lockstep/internal/dialect"
	"github.com/lockstep-go/lockstep/internal/tracing"
)

// Broker is where events come from, and where retries and dead letters go. Any
// Watermill publisher and subscriber will do; [Binder] and [DelayedPublisher]
// are used where it has them.
type Broker interface {
	message.Publisher
	message.Subscriber
}

// Binder is a broker whose queues are bound to topics. With a broker that has no
// such thing, the consumer subscribes to each of its topics by itself, and the
// topics of retries and dead letters have to lead somewhere by themselves.
type Binder interface {
	// Bind declares the queue and binds it to the topics. It may be repeated.
	Bind(ctx context.Context, queue string, topics ...string) error
}

// Reachable is a broker that knows whether it has a connection. With any other,
// [Stats] show that the broker is away only once a message has to be sent to it: a
// consumer that nothing reaches passes for one that has nothing to do.
type Reachable interface {
	// AwaySince returns since when there has been no connection to receive by, or the
	// zero time while there is one. It must not block.
	AwaySince() time.Time
}

// DelayedPublisher is a broker that keeps a message for a time before it
// delivers it. With any other broker the consumer holds a failed message in
// memory for the time, unacknowledged.
type DelayedPublisher interface {
	// PublishAfter returns after the message is safely stored.
	PublishAfter(ctx context.Context, delay time.Duration, topic string, msg *message.Message) error
}

// Consumer applies the events of one queue. Make it with [New].
type Consumer struct {
	db      *sql.DB
	broker  Broker
	cfg     Config
	dialect dialect.Name
	stats   counters
	tracer  trace.Tracer // nil: off

	mu       sync.Mutex
	entities []*entity // in the order of registration
	running  bool
	single   *single // of HandleMessage and Apply; nil before the first call

	rereadEvery time.Duration // how often the catalogue is read again at most
	askEvery    time.Duration // how often the database is asked what parked messages wait for

	pauses   pauses
	outages  outages
	failures throttle
	parkings throttle
}

// entity is something registered under a CQRS ID: a table, or a handler.
type entity struct {
	id      string
	table   Table
	handler *handler // nil for a table
	policy  policy
}

// New returns a consumer that applies events to db. Neither the database nor the
// broker is used before [Consumer.Check] or [Consumer.Run]. All faults of the
// configuration are reported at once.
func New(db *sql.DB, broker Broker, cfg Config) (*Consumer, error) {
	var faults []error
	if broker == nil {
		faults = append(faults, errors.New("consumer: the broker is nil"))
	}
	faults = append(faults, cfg.validate())
	d := cfg.Dialect
	switch {
	case db == nil:
		faults = append(faults, errors.New("consumer: the database is nil"))
	case d == "":
		var err error
		if d, err = dialect.Detect(db); err != nil {
			faults = append(faults, fmt.Errorf("consumer: %w", err))
		}
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	cfg.setDefaults()
	c := &Consumer{db: db, broker: broker, cfg: cfg, dialect: d, rereadEvery: rereadEvery, askEvery: askEvery, pauses: newPauses()}
	if cfg.TracerProvider != nil {
		c.tracer = cfg.TracerProvider.Tracer(tracing.Name)
	}
	return c, nil
}

// Table registers a table that follows the events of an entity. A table follows
// one entity only. It must be called before Run; ErrRunning otherwise. All
// faults are reported at once; what only the database knows is checked by
// [Consumer.Check].
//
// Within a batch, tables are written in the order of their registration and
// rows are deleted in the opposite order. So register a table before those whose
// foreign keys refer to it.
func (c *Consumer) Table(cqrsID string, t Table) error {
	t.setDefaults()
	faults := []error{t.validate(cqrsID)}
	c.mu.Lock()
	for _, e := range c.entities {
		if e.handler == nil && e.table.Name == t.Name {
			faults = append(faults, fmt.Errorf("consumer: Table %q: table %s follows %q already", cqrsID, t.Name, e.id))
		}
	}
	c.mu.Unlock()
	return c.register("Table", &entity{id: cqrsID, table: t, policy: t.policy()}, faults)
}

// register adds an entity unless something is wrong with it.
func (c *Consumer) register(call string, e *entity, faults []error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running || c.single != nil {
		return fmt.Errorf("consumer: %s %q: %w", call, e.id, ErrRunning)
	}
	for _, other := range c.entities {
		if other.id == e.id {
			faults = append(faults, fmt.Errorf("consumer: %s %q: the CQRS ID is registered already: take one of the two calls out", call, e.id))
		}
	}
	if slices.Contains(c.cfg.Ignore, e.id) {
		faults = append(faults, fmt.Errorf("consumer: %s %q: Config.Ignore has it, too: take it out of either", call, e.id))
	}
	e.policy.setDefaults()
	if err := errors.Join(append(faults, c.compareRetention(call, e))...); err != nil {
		return err
	}
	c.entities = append(c.entities, e)
	return nil
}

// Stats returns the counters of this consumer since it was made. It never blocks
// for long and may be called at any time.
func (c *Consumer) Stats() Stats {
	s := c.stats.snapshot()
	s.PausedSince = c.outages.since()
	if b, ok := c.broker.(Reachable); ok && s.Subscribed {
		if away := b.AwaySince(); !away.IsZero() && (s.PausedSince.IsZero() || away.Before(s.PausedSince)) {
			s.PausedSince = away
		}
	}
	return s
}
