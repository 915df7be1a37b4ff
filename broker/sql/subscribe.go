package sql

import (
	"context"
	"fmt"
	"sync"
	"time"

	wsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
)

// grace is how long the messages in hand may still be settled after their subscription has ended.
const grace = 10 * time.Second

// Subscribe hands on the messages of a queue, whose name is the argument (it is called topic in
// Watermill's interface). A queue that this Broker has bound to nothing is made, if need be, and bound to
// the topic of its own name. It blocks until that is done, for ConfirmTimeout at most.
//
// Up to Config.Prefetch messages come without waiting for the acknowledgement of earlier ones. Ack
// deletes a message, Nack gives it back to its place. Several subscriptions of a queue, in any number of
// processes, share its messages.
//
// The channel is closed when ctx ends or the Broker is closed. Messages that were handed on can still be
// settled for ten seconds after ctx has ended, although their contexts end with ctx; then they are given
// back.
func (b *Broker) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if err := b.ready(ctx, topic); err != nil {
		return nil, err
	}
	sub := &subscription{
		b: b, queue: topic, out: make(chan *message.Message), batches: make(chan []entry),
		stirred: make(chan struct{}, 1), freed: make(chan struct{}, 1), ended: make(chan struct{}),
		settled: make(chan outcome, maxSettled),
	}
	var err error
	if sub.holder, err = b.enter(ctx, topic); err != nil {
		return nil, err
	}
	c := &claims{sub: sub}
	deadline := time.Duration(0) // its transactions last no longer than ours
	subscriber, err := wsql.NewSubscriber(c, wsql.SubscriberConfig{
		SchemaAdapter: reading{c}, OffsetsAdapter: offsets{c}, BackoffManager: c, AckDeadline: &deadline,
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("sql: subscribe to %q: %w", topic, err)
	}
	running, cancel := context.WithCancel(ctx)
	sub.quit = running.Done()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		cancel()
		return nil, ErrClosed
	}
	tokens, err := subscriber.Subscribe(running, place) // does not block
	if err != nil {
		cancel()
		return nil, fmt.Errorf("sql: subscribe to %q: %w", topic, err)
	}
	b.subs[sub] = struct{}{}
	b.running.Go(func() {
		defer cancel()
		select {
		case <-b.closing:
		case <-running.Done():
		}
	})
	b.running.Go(func() {
		sub.run(running, func() {
			for token := range tokens {
				token.Ack()
			}
			_ = subscriber.Close() // has no errors, and has ended already
		})
		b.leave(context.WithoutCancel(ctx), sub.holder)
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.subs, sub)
	})
	return sub.out, nil
}

// subscription is one Subscribe call.
type subscription struct {
	b      *Broker
	queue  string
	holder int64

	out     chan *message.Message
	batches chan []entry  // held, to be handed on
	stirred chan struct{} // holds a token when the queue may have got messages
	freed   chan struct{} // holds a token when there may be room
	ended   chan struct{} // closed when nothing is handed on any more
	settled chan outcome
	quit    <-chan struct{} // closed when the subscription is to end
	inHand  sync.WaitGroup

	mu   sync.Mutex
	held int       // messages that are neither acknowledged nor given back
	away time.Time // since when the database cannot be read; zero: it can
}

// AwaySince returns since when a subscription of the Broker has been without its
// database, or the zero time while none is.
func (b *Broker) AwaySince() (since time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for sub := range b.subs {
		sub.mu.Lock()
		if !sub.away.IsZero() && (since.IsZero() || sub.away.Before(since)) {
			since = sub.away
		}
		sub.mu.Unlock()
	}
	return since
}

// noteAway notes since when the database cannot be read; the zero time: it can.
func (sub *subscription) noteAway(since time.Time) {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	sub.away = since
}

// outcome is what became of a message.
type outcome struct {
	offset int64
	acked  bool
}

// run hands messages on until ctx ends and settles them.
func (sub *subscription) run(ctx context.Context, claim func()) {
	var claiming, settling sync.WaitGroup
	settling.Go(func() { sub.settle(context.WithoutCancel(ctx)) })
	claiming.Go(func() {
		claim()
		close(sub.batches)
	})
	for batch := range sub.batches {
		for i, e := range batch {
			if !sub.hand(ctx, e) {
				sub.inHand.Go(func() { sub.giveBack(batch[i:]) }) // waits while the database is away
				break
			}
		}
	}
	claiming.Wait()
	close(sub.ended)
	close(sub.out)
	sub.inHand.Wait()
	close(sub.settled)
	settling.Wait()
}

// hold passes on messages that are this subscription's now.
func (sub *subscription) hold(batch []entry) {
	sub.mu.Lock()
	sub.held += len(batch)
	sub.mu.Unlock()
	sub.batches <- batch // run takes them until there are no more
}

func (sub *subscription) giveBack(batch []entry) {
	for _, e := range batch {
		sub.settled <- outcome{e.offset, false}
	}
}

// hand passes one message to the user and reports whether he took it.
func (sub *subscription) hand(ctx context.Context, e entry) bool {
	msg := e.message()
	one, cancel := context.WithCancel(ctx)
	msg.SetContext(one)
	if ctx.Err() == nil {
		select {
		case sub.out <- msg:
			sub.inHand.Go(func() {
				defer cancel()
				sub.settled <- outcome{e.offset, sub.acked(msg)}
			})
			return true
		case <-ctx.Done():
		}
	}
	cancel()
	return false
}

// acked waits for the settlement of a message and reports which it is.
func (sub *subscription) acked(msg *message.Message) bool {
	select {
	case <-msg.Acked():
		return true
	case <-msg.Nacked():
		return false
	case <-sub.ended:
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-msg.Acked():
		return true
	case <-msg.Nacked():
	case <-timer.C:
	case <-sub.b.closing:
		select {
		case <-msg.Acked():
			return true
		default:
		}
	}
	return false
}

// room waits until there is room for a message.
func (sub *subscription) room(ctx context.Context) error {
	for sub.free() < 1 {
		select {
		case <-sub.freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return ctx.Err()
}

func (sub *subscription) free() int {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	return sub.b.cfg.Prefetch - sub.held
}

// stir tells the subscription that there may be messages.
func (sub *subscription) stir() { signal(sub.stirred) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
