package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// Bounds of calls that have no setting.
const (
	catalogueTimeout = 30 * time.Second
	bindTimeout      = 15 * time.Second
)

// Keys of the log's attributes.
const (
	logQueue  = "queue"
	logError  = "error"
	logReason = "reason"
	logEntity = "entity"
	logWait   = "wait"
)

// runner is one call of Run.
type runner struct {
	*Consumer
	engine    engine
	inbox     *inbox
	catalogue *catalogue
	settler   *settler
	handlers  *dispatcher // nil without handlers
	alone     *single     // not nil: this is not Run, but a call for one message
	held      []*incoming // of paused tables; the intake's
	most      int         // messages of a transaction, since one was not done in time; 0: all
	log       *slog.Logger
	parking   *parking
	spans     *spans // nil but in Run
	// work outlives Run's context by the drain timeout. Database and broker calls
	// use it.
	work context.Context //nolint:containedctx // of one Run, as long as the runner
}

// Run checks what is registered, binds the queue, and applies its messages until
// ctx ends. Then it finishes what it has in hand, for at most
// [Config.DrainTimeout], and returns nil, or ErrDrain when that was not enough.
// Messages that are not settled then go back to the queue, as do those in hand
// when the database or the broker is away at that moment.
//
// Before that it returns only for faults of configuration, or ErrClosed when the
// broker ends the subscription. It waits for a database and a broker that cannot
// be reached. ErrRunning reports a second call; all goroutines have ended when
// Run returns.
func (c *Consumer) Run(ctx context.Context) error {
	if err := c.start(); err != nil {
		return err
	}
	defer c.stop()
	defer c.ended()
	r := &runner{Consumer: c, engine: c.newEngine(), catalogue: &catalogue{}, log: c.cfg.Logger.With(logQueue, c.cfg.Queue)}
	work, cancel := drainContext(ctx, c.cfg.DrainTimeout)
	defer cancel()
	r.work = work
	if err := r.check(ctx); err != nil {
		return endOr(ctx, err)
	}
	messages, unsubscribe, err := r.subscribe(ctx)
	if err != nil {
		return endOr(ctx, err)
	}
	defer unsubscribe()
	c.stats.add(func(s *Stats) { s.Subscribed = true })
	r.log.Info("consuming", "entities", slices.Sorted(maps.Keys(r.replicas())), "dialect", r.dialect)
	return r.consume(ctx, messages)
}

func (c *Consumer) start() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running {
		return ErrRunning
	}
	c.running = true
	return nil
}

func (c *Consumer) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running = false
}

// ended forgets what was true of the run only.
func (c *Consumer) ended() {
	c.outages.forget()
	c.stats.ended()
}

// endOr returns nil when ctx has ended, for err is a consequence of that then.
func endOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // the end was asked for
	}
	return err
}

// drainContext returns a context that ends the given time after ctx does.
func drainContext(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		t := time.AfterFunc(timeout, cancel)
		context.AfterFunc(work, func() { t.Stop() })
	})
	return work, func() { stop(); cancel() }
}

// check reads the catalogue, and waits for a database that cannot be reached.
func (r *runner) check(ctx context.Context) error {
	var faults, fatal error
	var replicas map[string]*replica
	waited := r.await(ctx, "database", func() (err error) {
		replicas, faults, err = r.load(ctx)
		if !dialect.IsUnreachable(err) {
			fatal, err = err, nil
		}
		return err
	})
	r.catalogue.set(replicas)
	r.warn(replicas)
	return errors.Join(faults, fatal, waited)
}

// await repeats a call until it returns nil or ctx ends, whose error it returns
// then. It says once that it waits and once that it need not any more.
func (r *runner) await(ctx context.Context, what string, call func() error) error {
	p := pause{runner: r, what: what}
	defer p.leave()
	for {
		err := call()
		if err == nil {
			p.over()
			return nil
		}
		if !p.wait(ctx, err) {
			return ctx.Err()
		}
	}
}

// subscribe binds the queues and subscribes. The subscription outlives ctx, so
// that messages in hand can still be acknowledged; unsubscribe ends it.
func (r *runner) subscribe(ctx context.Context) (<-chan *message.Message, func(), error) {
	if err := r.bind(ctx); err != nil {
		return nil, nil, err
	}
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	topics := []string{r.cfg.Queue}
	if _, binds := r.broker.(Binder); !binds {
		topics = nil
		for id := range r.replicas() {
			topics = append(topics, event.QueueTopics(r.cfg.Queue, id)...)
		}
	}
	channels := make([]<-chan *message.Message, len(topics))
	for i, topic := range topics {
		err := r.await(ctx, "broker", func() (err error) {
			channels[i], err = r.broker.Subscribe(own, topic)
			return err
		})
		if err != nil {
			cancel()
			return nil, nil, err
		}
	}
	if len(channels) == 1 {
		return channels[0], cancel, nil
	}
	merged, join := merge(own, channels)
	return merged, func() { cancel(); join() }, nil
}

// bind ties the broadcast and the direct topics to the queue, and the dead
// letters' topics to theirs.
func (r *runner) bind(ctx context.Context) error {
	binder, ok := r.broker.(Binder)
	if !ok {
		return nil
	}
	dead := event.DeadLetterQueue(r.cfg.Queue)
	topics, deadTopics := []string{}, []string{event.DirectTopic(dead, unknownEntity)}
	for id := range r.replicas() {
		topics = append(topics, event.QueueTopics(r.cfg.Queue, id)...)
		deadTopics = append(deadTopics, event.DirectTopic(dead, id))
	}
	var refused error
	err := r.await(ctx, "broker", func() error {
		bound, cancel := context.WithTimeout(ctx, bindTimeout)
		defer cancel()
		err := binder.Bind(bound, r.cfg.Queue, topics...)
		if err == nil {
			err = binder.Bind(bound, dead, deadTopics...)
		}
		if permanent := (interface {
			error
			Permanent() bool
		})(nil); errors.As(err, &permanent) && permanent.Permanent() {
			refused, err = fmt.Errorf("consumer: bind queue %s: %w", r.cfg.Queue, err), nil
		}
		return err
	})
	return errors.Join(refused, err)
}

// merge hands on the messages of several channels until all are closed or ctx
// ends. join waits for its goroutines.
func merge(ctx context.Context, channels []<-chan *message.Message) (merged <-chan *message.Message, join func()) {
	out := make(chan *message.Message)
	var wg sync.WaitGroup
	for _, ch := range channels {
		wg.Go(func() {
			for m := range ch {
				select {
				case out <- m:
				case <-ctx.Done():
					m.Nack()
				}
			}
		})
	}
	closed := make(chan struct{})
	go func() {
		wg.Wait()
		close(out)
		close(closed)
	}()
	return out, func() { <-closed }
}

// consume applies messages until ctx ends or the channel closes, then drains.
func (r *runner) consume(ctx context.Context, messages <-chan *message.Message) error {
	r.settler, r.inbox, r.parking = newSettler(ctx, r), r.newInbox(r.log), newParking(r)
	r.spans = newSpans()
	defer r.spans.end()
	if r.hasHandlers() {
		own, stop := context.WithCancel(ctx) // the channel may close before ctx ends
		defer stop()
		r.handlers = newDispatcher(own, r)
		r.handlers.start()
		defer func() { r.handlers = nil }()
		return r.consumeBatches(ctx, messages, stop)
	}
	return r.consumeBatches(ctx, messages, func() {})
}

func (r *runner) consumeBatches(ctx context.Context, messages <-chan *message.Message, stopHandlers func()) error {
	batches := make(chan *batch)
	var intake, beside sync.WaitGroup
	besides, done := context.WithCancel(ctx)
	beside.Go(func() { r.forget(besides) })
	defer func() { done(); beside.Wait() }()
	intake.Go(func() { r.intake(ctx, messages, batches) })
	r.applyAll(ctx, batches)
	intake.Wait()
	stopHandlers()
	var left []*incoming
	if r.handlers != nil {
		left = r.handlers.wait()
	}
	r.settler.wait()
	if err := errors.Join(r.engine.close(), r.inbox.close()); err != nil {
		r.log.Debug("close prepared statements", logError, err)
	}
	switch {
	case r.work.Err() != nil:
		return r.undrained(left)
	case ctx.Err() != nil:
		return nil
	}
	return fmt.Errorf("consumer: queue %s: %w", r.cfg.Queue, ErrClosed)
}

// applyAll applies batches until there will be no more, and what they parked.
func (r *runner) applyAll(ctx context.Context, batches <-chan *batch) {
	defer r.parking.giveBack()
	for {
		select {
		case b, ok := <-batches:
			if !ok {
				return
			}
			r.handle(ctx, b)
		case <-r.parking.due():
			r.parking.release()                                //nolint:contextcheck // the work outlives ctx by the drain: see runner.work
			r.handlePart(ctx, part{messages: r.parking.ask()}) //nolint:contextcheck // as above
		}
	}
}

func (r *runner) hasHandlers() bool {
	for _, to := range r.replicas() {
		if to.entity.handler != nil {
			return true
		}
	}
	return false
}

// undrained says what the drain's time was not enough for.
func (r *runner) undrained(left []*incoming) error {
	err := fmt.Errorf("consumer: queue %s: %w (%s)", r.cfg.Queue, ErrDrain, r.cfg.DrainTimeout)
	if len(left) > 0 {
		err = fmt.Errorf("%w: handlers that went on: %d, one of them with %s", err, len(left), left[0])
	}
	if cause := r.outages.lasting(); cause != nil {
		err = fmt.Errorf("%w: %w", err, cause)
	}
	return err
}
