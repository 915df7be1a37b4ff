package consumer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/event"
)

// HandleMessage applies one message and settles it as Run would: it returns nil
// when the message is applied, or needless, or when a copy of it for a later
// attempt, or a dead letter, is confirmed by the broker. So it can be mounted in
// a Watermill router, over any subscriber:
//
//	router.AddConsumerHandler("billing", "billing", subscriber, c.HandleMessage)
//
// It is slower than Run, a transaction for each message, and just as correct. The
// order in which a router with several messages at a time calls it is of no
// importance to tables; handlers miss what comes too late, as ever. Events of
// one key are handled one at a time.
//
// It waits while the database or the broker is away, or the entity is paused. It
// returns an error only when the message's context ends before, or when the
// configuration is wrong, after a second's wait; the router then gives the message
// back. It parks nothing: a message whose row refers to one that has not come is
// sent again after its delay, which costs an attempt.
//
// Watermill's middlewares work around it, but what fails does not come to Retry and
// PoisonQueue, nor a handler's panic to Recoverer: it costs the event an attempt. To
// leave that to them, mount a function that calls [Consumer.Apply] and returns
// [Outcome.Err]; a panic is a [PanicError] there. What they see of this function is
// the end of the message's context, by Timeout or as the router closes, while it
// waits. That says nothing about the message, so keep it out of the poison queue:
//
//	middleware.PoisonQueueWithFilter(publisher, "poison", func(err error) bool {
//		return !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
//	})
//
// Timeout, Throttle, CorrelationID, Recoverer and even Duplicator change
// nothing about what is promised. Deduplicator and InstantAck break it: a message that
// is given back, and so delivered again, is taken for seen by the one and was
// acknowledged by the other before it was applied. Duplicates need no middleware here.
//
// With a broker that is no [DelayedPublisher], this function waits for the delay of
// a message that failed: a Timeout has to be longer, or no attempt is counted.
//
// Over watermill-amqp's subscriber, set its configuration's Marshaler to
// rabbitmq.Marshaler: its own refuses what RabbitMQ has delayed. Without headers
// for the routing key, a SYNC from django-cqrs that is meant for this queue alone
// cannot be told there from one for all; see OnlyDirectSyncs.
//
// The queue must be bound: call [Consumer.Bind] first, with a broker that has
// bindings. Call Check before, too; and Close at the end.
func (c *Consumer) HandleMessage(msg *message.Message) error {
	ctx := msg.Context()
	r, err := c.singly(ctx)
	if err != nil {
		return err
	}
	in, o, err := r.one(ctx, msg)
	if err != nil {
		in.traceEnd(err)
		return err
	}
	err = r.settleOne(ctx, msg, in, o)
	in.traceEnd(o.Err, err)
	return err
}

// Apply applies one message and says what is to become of it, which is left to
// the caller: a message that is [Retried], [Parked] or [Dead] was not applied, and no copy
// of it was made. Parked means that its row refers to one that has not come; nothing
// is kept here, so bring it again. A handler's panic is in [Outcome.Err], as a
// [PanicError]. It waits while the database is away, for the transaction of another
// message, or while the entity is paused.
//
// The error is about the call, not the message: ctx ended, or the configuration
// is wrong.
//
// Apply and HandleMessage may be called from several goroutines. After the first
// call nothing more can be registered.
func (c *Consumer) Apply(ctx context.Context, msg *message.Message) (Outcome, error) {
	r, err := c.singly(ctx)
	if err != nil {
		return Outcome{}, err
	}
	in, o, err := r.one(ctx, msg)
	in.traceEnd(o.Err, err)
	return o, err
}

// Bind declares the queue and the dead letters' and binds them to the topics of
// what is registered, as Run does before it starts. It waits for a broker that is
// away until ctx ends. With a broker that has no bindings it does nothing.
func (c *Consumer) Bind(ctx context.Context) error {
	r := &runner{Consumer: c, catalogue: &catalogue{}, log: c.cfg.Logger.With(logQueue, c.cfg.Queue)}
	c.mu.Lock()
	entities, err := c.chosen()
	c.mu.Unlock()
	if err != nil {
		return err
	}
	replicas := make(map[string]*replica, len(entities))
	for _, e := range entities {
		replicas[e.id] = &replica{entity: e}
	}
	r.catalogue.set(replicas)
	return r.bind(ctx)
}

// Close releases the prepared statements of Apply and HandleMessage. It must not
// be called before they have returned; calls after it prepare anew. The database
// and the broker stay open.
func (c *Consumer) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.single
	if s == nil {
		return nil
	}
	c.single = nil
	return errors.Join(s.engine.close(), s.inbox.close())
}

// single is what the calls for single messages have in common.
type single struct {
	engine  engine
	inbox   *inbox
	tables  chan struct{} // held while the engine is used
	workers chan struct{} // a place for each handler that runs
	keys    keyLocks

	catalogue catalogue
	checking  chan struct{} // held while checked is used, which may be until the database is there
	checked   bool          // the catalogue was read
}

// faultWait keeps a router from giving a message back and forth all the time
// while the configuration is wrong.
const faultWait = time.Second

// singly returns a runner for one message.
func (c *Consumer) singly(ctx context.Context) (*runner, error) {
	log := c.cfg.Logger.With(logQueue, c.cfg.Queue)
	c.mu.Lock()
	if c.single == nil {
		c.single = &single{
			engine: c.newEngine(), inbox: c.newInbox(log),
			tables: make(chan struct{}, 1), workers: make(chan struct{}, c.cfg.Workers), checking: make(chan struct{}, 1),
		}
	}
	s := c.single
	c.mu.Unlock()

	r := &runner{Consumer: c, engine: s.engine, inbox: s.inbox, catalogue: &s.catalogue, alone: s, log: log, work: ctx}
	if !take(ctx, s.checking) {
		return nil, fmt.Errorf("consumer: queue %s: not applied: %w", c.cfg.Queue, ctx.Err())
	}
	defer func() { <-s.checking }()
	if !s.checked {
		if err := r.check(ctx); err != nil {
			sleep(ctx, faultWait)
			return nil, err
		}
		s.checked = true
	}
	return r, nil
}

// one applies one message. The incoming message is nil where nothing could be
// read of it.
func (r *runner) one(ctx context.Context, msg *message.Message) (*incoming, Outcome, error) {
	in, err := r.receive(msg)
	rejected := (*rejection)(nil)
	switch {
	case errors.Is(err, errIgnored):
		return in, Outcome{Result: Ignored}, nil
	case errors.As(err, &rejected):
		return in, Outcome{Result: Dead, Reason: rejected.reason, Err: rejected.err}, nil
	case err != nil && in.handles():
		return in, in.afterFailure(err, r.cfg.Now()), nil
	}
	if err := r.awaitResume(ctx, in); err != nil {
		return in, Outcome{}, err
	}
	if in.handles() {
		return r.oneHandled(ctx, in)
	}
	if !take(ctx, r.alone.tables) {
		return in, Outcome{}, r.interrupted(ctx, in)
	}
	defer func() { <-r.alone.tables }()
	one := part{messages: []*incoming{in}}
	res, ok := result{failures: []failure{{in, err}}}, true
	if err == nil {
		res, ok = r.apply(ctx, one)
	}
	if ok && len(res.failures) > 0 && r.reread(ctx) {
		res, ok = r.apply(ctx, one)
	}
	switch {
	case !ok:
		return in, Outcome{}, r.interrupted(ctx, in)
	case len(res.failures) > 0:
		return in, in.afterFailure(res.failures[0].err, r.cfg.Now()), nil
	}
	return in, outcomeOfOne(res.tally), nil
}

func (r *runner) oneHandled(ctx context.Context, in *incoming) (*incoming, Outcome, error) {
	unlock, ok := r.alone.keys.lock(ctx, in.foldKey())
	if !ok {
		return in, Outcome{}, r.interrupted(ctx, in)
	}
	defer unlock()
	if !take(ctx, r.alone.workers) {
		return in, Outcome{}, r.interrupted(ctx, in)
	}
	defer func() { <-r.alone.workers }()
	v, ok, err := r.repeat(ctx, in)
	switch {
	case !ok:
		return in, Outcome{}, r.interrupted(ctx, in)
	case err != nil:
		return in, in.afterFailure(err, r.cfg.Now()), nil
	}
	return in, outcomeOf(v), nil
}

func (r *runner) interrupted(ctx context.Context, in *incoming) error {
	return fmt.Errorf("consumer: %s: not applied: %w", in, ctx.Err())
}

func (r *runner) awaitResume(ctx context.Context, in *incoming) error {
	for {
		paused, resumed := r.pauses.holds(in.ev.CQRSID)
		if !paused {
			return nil
		}
		select {
		case <-resumed:
		case <-ctx.Done():
			return r.interrupted(ctx, in)
		}
	}
}

// take takes a place and reports false when ctx ended first.
func take(ctx context.Context, places chan struct{}) bool {
	select {
	case places <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// settleOne publishes what the outcome asks for, and returns when that is
// confirmed or ctx has ended.
func (r *runner) settleOne(ctx context.Context, msg *message.Message, in *incoming, o Outcome) error {
	s, entity := newSettler(ctx, r), unknownEntity
	if in != nil {
		entity = in.ev.CQRSID
	}
	var sent bool
	switch o.Result {
	case Dead:
		letter, topic := r.letter(msg, o.Reason, o.Err), event.DirectTopic(event.DeadLetterQueue(r.cfg.Queue), entity)
		r.logDead(in, entity, o.Reason, o.Err)
		sent = s.persist(func(context.Context) error { return r.broker.Publish(topic, letter) }) //nolint:contextcheck // the runner's work is ctx
	case Retried, Parked:
		r.logRetry(in, o.Delay, o.Err)
		wait, publish := r.again(in, o.Delay)
		sent = (wait == 0 || sleep(ctx, wait)) && s.persist(publish) //nolint:contextcheck // the runner's work is ctx
	default:
		return nil
	}
	if !sent {
		return fmt.Errorf("consumer: the broker did not take a copy of a message of %s: %w", entity, ctx.Err())
	}
	r.stats.add(func(st *Stats) {
		if o.Result == Dead {
			st.Dead++
		} else {
			st.Retried++
		}
	})
	return nil
}

// keyLocks lets one event of a key through at a time. The zero value is ready.
type keyLocks struct {
	mu   sync.Mutex
	held map[foldKey]*keyLock
}

type keyLock struct {
	place chan struct{}
	users int
}

// lock returns false when ctx ended first.
func (k *keyLocks) lock(ctx context.Context, key foldKey) (unlock func(), ok bool) {
	k.mu.Lock()
	if k.held == nil {
		k.held = make(map[foldKey]*keyLock)
	}
	l := k.held[key]
	if l == nil {
		l = &keyLock{place: make(chan struct{}, 1)}
		k.held[key] = l
	}
	l.users++
	k.mu.Unlock()
	leave := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.held, key)
		}
	}
	if !take(ctx, l.place) {
		leave()
		return nil, false
	}
	return func() { <-l.place; leave() }, true
}
