package memory

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// grace is how long the messages in hand may still be settled after their
// subscription has ended, like the AckWait of JetStream.
const grace = 10 * time.Second

// msgQueue holds messages in the order of their numbers. The Broker's mutex guards it.
type msgQueue struct {
	waiting []*entry
	bound   bool
	// subscribers is how many subscriptions there are.
	subscribers int
	changed     chan struct{} // closed and replaced when something is put in
}

// entry is a message in a queue or in the hands of a subscriber.
type entry struct {
	parcel
	number  uint64
	expires time.Time // zero: never
}

// put files a message by its number, so that a requeued one is at its old place.
func (q *msgQueue) put(e *entry) {
	at, _ := slices.BinarySearchFunc(q.waiting, e.number, func(e *entry, n uint64) int {
		if e.number < n {
			return -1
		}
		return 1
	})
	q.waiting = slices.Insert(q.waiting, at, e)
	close(q.changed)
	q.changed = make(chan struct{})
}

// take removes and returns the first message that has not expired, or nil.
func (q *msgQueue) take() *entry {
	for len(q.waiting) > 0 {
		e := q.waiting[0]
		q.waiting[0] = nil
		q.waiting = q.waiting[1:]
		if e.expires.IsZero() || time.Now().Before(e.expires) {
			return e
		}
	}
	return nil
}

// SubscribeInitialize makes the queue as [Broker.Subscribe] would.
func (b *Broker) SubscribeInitialize(topic string) error {
	_, err := b.ready(context.Background(), topic)
	return err
}

// Subscribe hands on the messages of a queue, whose name is the argument (it is
// called topic in Watermill's interface). A queue that is bound to nothing is
// made, if need be, and bound to the topic of its own name. It does not block.
//
// Up to Config.Prefetch messages come without waiting for the acknowledgement
// of earlier ones. Ack takes a message out of the queue, Nack puts it back to
// its place. Several subscriptions of a queue share its messages.
//
// The channel is closed when ctx ends or the Broker is closed. Messages that
// were handed on can still be settled for ten seconds after ctx has ended,
// although their contexts end with ctx; then they are put back.
func (b *Broker) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	q, err := b.ready(ctx, topic)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	sub := &subscription{b: b, q: q, out: make(chan *message.Message), free: make(chan struct{}, b.prefetch), over: make(chan struct{})}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		cancel()
		return nil, ErrClosed
	}
	q.subscribers++
	b.running.Go(func() {
		defer cancel()
		sub.run(ctx)
		b.mu.Lock()
		defer b.mu.Unlock()
		q.subscribers--
	})
	b.running.Go(func() {
		select {
		case <-b.closing:
			cancel()
		case <-ctx.Done():
		}
	})
	return sub.out, nil
}

func (b *Broker) ready(ctx context.Context, name string) (*msgQueue, error) {
	if err := b.Bind(ctx, name); err != nil {
		return nil, err
	}
	b.mu.Lock()
	q := b.queues[name]
	bound := q.bound
	b.mu.Unlock()
	if bound {
		return q, nil
	}
	return q, b.Bind(ctx, name, name)
}

// subscription is one Subscribe call.
type subscription struct {
	b    *Broker
	q    *msgQueue
	out  chan *message.Message
	free chan struct{} // holds a token for each message in hand
	over chan struct{} // closed when the subscription has ended
}

// run hands messages on until ctx ends.
func (sub *subscription) run(ctx context.Context) {
	defer close(sub.out)
	defer close(sub.over)
	for {
		select {
		case sub.free <- struct{}{}:
		case <-ctx.Done():
			return
		}
		e := sub.next(ctx)
		if e == nil || !sub.hand(ctx, e) {
			return
		}
	}
}

// next waits for a message; nil means that ctx has ended.
func (sub *subscription) next(ctx context.Context) *entry {
	for ctx.Err() == nil {
		sub.b.mu.Lock()
		e, changed := sub.q.take(), sub.q.changed
		sub.b.mu.Unlock()
		if e != nil {
			return e
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
	return nil
}

// hand passes one message to the user and reports whether he took it.
func (sub *subscription) hand(ctx context.Context, e *entry) bool {
	msg := message.NewMessage(e.uuid, slices.Clone(e.body))
	msg.Metadata = maps.Clone(e.metadata)
	one, cancel := context.WithCancel(ctx)
	msg.SetContext(one)
	select {
	case sub.out <- msg:
		sub.b.running.Go(func() {
			defer cancel()
			if !sub.acked(msg) {
				sub.putBack(e)
			}
			<-sub.free
		})
		return true
	case <-ctx.Done():
		cancel()
		sub.putBack(e)
		return false
	}
}

// acked waits for the settlement of a message and reports which it is.
func (sub *subscription) acked(msg *message.Message) bool {
	select {
	case <-msg.Acked():
		return true
	case <-msg.Nacked():
		return false
	case <-sub.over:
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-msg.Acked():
		return true
	case <-msg.Nacked():
	case <-timer.C:
	case <-sub.b.closing:
	}
	return false
}

func (sub *subscription) putBack(e *entry) {
	sub.b.mu.Lock()
	defer sub.b.mu.Unlock()
	sub.q.put(e)
}
