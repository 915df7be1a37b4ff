package jetstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
)

// SubscribeInitialize declares the queue as [Broker.Subscribe] would. It blocks
// for ConfirmTimeout at most.
func (b *Broker) SubscribeInitialize(topic string) error {
	return b.ready(context.Background(), topic)
}

// Subscribe hands on the messages of a queue, whose name is the argument (it is
// called topic in Watermill's interface). A queue that this Broker has not
// bound is declared and bound to the topic of its own name. It blocks until
// that is done, for ConfirmTimeout at most.
//
// Messages come in the order of the queue, up to Config.Prefetch of them
// without waiting for the acknowledgement of earlier ones. Ack takes a message
// out of the queue, Nack puts it back for delivery at once. The subscription
// outlives losses of the connection. Several subscriptions of a queue, here
// and elsewhere, share its messages.
//
// The channel is closed when ctx ends or the Broker is closed. What was not
// handed on goes back to the queue at once. Messages that were handed on can
// still be acknowledged after ctx has ended, for AckWait and until the Broker
// is closed, although their contexts end with ctx.
func (b *Broker) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if err := b.ready(ctx, topic); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	sub := &subscription{
		b:     b,
		queue: topic,
		out:   make(chan *message.Message),
		held:  map[*delivery]struct{}{},
		news:  make(chan struct{}, 1),
		more:  make(chan struct{}, 1),
		notes: make(chan note, 64),
		over:  make(chan struct{}),
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		cancel()
		return nil, ErrClosed
	}
	b.running.Go(func() {
		defer cancel()
		sub.run(ctx)
	})
	b.running.Go(func() { // joined by run's end, too
		select {
		case <-b.closing:
			cancel()
		case <-ctx.Done():
		}
	})
	return sub.out, nil
}

// ready declares a queue for a subscription.
func (b *Broker) ready(ctx context.Context, queue string) error {
	if len(b.bound(queue)) > 0 {
		return b.Bind(ctx, queue)
	}
	return b.Bind(ctx, queue, queue)
}

// subscription is one Subscribe call. Its run goroutine asks the server for
// messages and renews what is held, its hand goroutine hands them on, and each
// message in the user's hands has a goroutine that waits for its settlement.
type subscription struct {
	b     *Broker
	queue string
	out   chan *message.Message

	news  chan struct{} // arrived has grown
	more  chan struct{} // there may be room for more
	notes chan note     // what the server says beside messages
	over  chan struct{} // closed when the subscription has ended

	mu        sync.Mutex
	arrived   []*delivery            // to be handed on, in the order of the queue
	held      map[*delivery]struct{} // not settled: arrived and handed on
	requested int                    // asked of the server and not come yet
	lastSign  time.Time              // of life, from the server
	number    uint64                 // of the newest delivery
	ackWait   time.Duration          // of the queue
}

// run keeps the subscription going over any number of sessions.
func (sub *subscription) run(ctx context.Context) {
	var handing sync.WaitGroup
	handing.Go(func() { sub.hand(ctx) })
	for pause := firstPause; ctx.Err() == nil; {
		s, err := sub.b.await(ctx)
		if err != nil {
			break
		}
		started := time.Now()
		if err = sub.pull(ctx, s); ctx.Err() != nil {
			break
		}
		if time.Since(started) > longPause {
			pause = firstPause
		}
		if s.alive() { // else the connection's loss has been logged
			sub.b.log.Warn("jetstream: subscription interrupted", "queue", sub.queue, "err", err)
		}
		sleep(ctx, pause)
		pause = min(2*pause, longPause)
	}
	close(sub.over)
	handing.Wait()
	sub.release()
}

// The pull protocol's times.
const (
	pullExpires   = 30 * time.Second // a request that nothing answers ends
	pullHeartbeat = 5 * time.Second  // the server says that it is still there
	pullSilence   = 12 * time.Second // it is not: ask again
)

// errGone reports that the queue or the server's leader of it has gone.
var errGone = errors.New("queue is gone or moved")

// pull asks for messages until ctx or the session ends.
func (sub *subscription) pull(ctx context.Context, s *session) error {
	info, err := sub.b.declareQueue(ctx, s, sub.queue, sub.b.bound(sub.queue))
	if err != nil {
		return err
	}
	inbox := s.nc.NewInbox()
	from, err := s.nc.Subscribe(inbox, sub.receive)
	if err != nil {
		return fmt.Errorf("jetstream: queue %q: %w", sub.queue, err)
	}
	defer sub.quiesce(context.WithoutCancel(ctx), s, from)
	if err := from.SetPendingLimits(-1, -1); err != nil { // Prefetch is the limit
		return fmt.Errorf("jetstream: queue %q: %w", sub.queue, err)
	}
	sub.begin(info.Config.AckWait)
	subject := nextSubject(info)
	renew := time.NewTicker(sub.ackWait / 3)
	defer renew.Stop()
	for {
		if n := sub.want(); n > 0 {
			body := fmt.Sprintf(`{"batch":%d,"expires":%d,"idle_heartbeat":%d}`, n, pullExpires, pullHeartbeat)
			if err := s.nc.PublishRequest(subject, inbox, []byte(body)); err != nil {
				return fmt.Errorf("jetstream: queue %q: %w", sub.queue, err)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.done:
			return s.cause()
		case <-sub.more:
		case n := <-sub.notes:
			if err := sub.heed(n); err != nil {
				return err
			}
		case <-renew.C:
			sub.renew(s)
		}
	}
}

// begin forgets what was asked of an earlier session.
func (sub *subscription) begin(ackWait time.Duration) {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	sub.requested = 0
	sub.lastSign = time.Now()
	sub.ackWait = max(ackWait, time.Second)
}

// want returns how many messages to ask for now and counts them as requested.
// Small requests are only made when no other is open, so that a queue whose
// messages are settled one by one does not cost a request for each.
func (sub *subscription) want() int {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	n := sub.b.cfg.Prefetch - len(sub.held) - sub.requested
	if n <= 0 || (sub.requested > 0 && n < sub.b.cfg.Prefetch/4) {
		return 0
	}
	if sub.requested == 0 {
		sub.lastSign = time.Now()
	}
	sub.requested += n
	return n
}

// receive takes what the server sends to the inbox. It must not block: what has
// been delivered must be known, to be renewed.
func (sub *subscription) receive(m *nats.Msg) {
	if !isAck(m.Reply) {
		sub.sign()
		n := noteOf(m)
		if n.status == statusHeartbeat {
			return
		}
		select {
		case sub.notes <- n:
		default: // the silence after it will tell
		}
		return
	}
	now := time.Now()
	d := &delivery{msg: decode(m), raw: m, touched: now}
	sub.mu.Lock()
	sub.number++
	d.number = sub.number
	sub.arrived = append(sub.arrived, d)
	sub.held[d] = struct{}{}
	sub.requested = max(0, sub.requested-1)
	sub.lastSign = now
	drained := sub.requested == 0
	sub.mu.Unlock()
	poke(sub.news)
	if drained {
		poke(sub.more)
	}
}

func (sub *subscription) sign() {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	sub.lastSign = time.Now()
}

// poke wakes the reader of a channel that holds one token.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// renew tells the server that what is held is still in hand, and notices its
// silence. The oldest come first, so that their time would run out in order.
func (sub *subscription) renew(s *session) {
	sub.mu.Lock()
	now := time.Now()
	var due []*delivery
	for d := range sub.held {
		if now.Sub(d.touched) >= sub.ackWait/4 {
			d.touched = now
			due = append(due, d)
		}
	}
	if sub.requested > 0 && now.Sub(sub.lastSign) > pullSilence {
		sub.requested = 0
	}
	sub.mu.Unlock()
	slices.SortFunc(due, func(x, y *delivery) int { return cmp.Compare(x.number, y.number) })
	for _, d := range due {
		s.tell(d.raw.Reply, bodyProgress)
	}
}

// quiesce ends the delivery to the inbox without losing what is under way,
// which would come again only after AckWait, or overtake what is given back: it
// waits until the server has sent what was asked for, or has nothing to send,
// before it unsubscribes. If the server does not answer in time, the session
// is given up.
func (sub *subscription) quiesce(ctx context.Context, s *session, from *nats.Subscription) {
	ctx, cancel := context.WithTimeout(ctx, sub.b.cfg.ConfirmTimeout)
	defer cancel()
	quiet := make(chan struct{})
	from.SetClosedHandler(func(string) { close(quiet) })
	var draining sync.WaitGroup
	draining.Go(func() {
		for before := -1; ; {
			rest, err := sub.underWay(ctx, s, from)
			if err != nil || rest == 0 || rest == before {
				break
			}
			before = rest
		}
		_ = from.Drain() // fails when the session has ended, and the inbox with it
	})
	select {
	case <-quiet:
	case <-s.done:
		cancel()
	case <-ctx.Done():
		s.nc.Close()
	}
	draining.Wait()
}

// underWay waits for what the server still sends of what was asked for, and
// returns the number of messages that it does not seem to have. The same number
// twice is the truth.
func (sub *subscription) underWay(ctx context.Context, s *session, from *nats.Subscription) (int, error) {
	const pause, patience = 2 * time.Millisecond, 250 // pauses without a message
	for idle, last := 0, -1; ; {
		if err := s.nc.FlushWithContext(ctx); err != nil {
			return 0, err
		}
		arriving, _, _ := from.Pending() // an invalid subscription has none
		rest := sub.outstanding() - arriving
		if rest <= 0 {
			return 0, nil
		}
		if idle++; rest != last {
			idle = 0
		}
		last = rest
		info, err := s.consumer(ctx, sub.queue)
		if err != nil {
			return 0, err
		}
		if !sleep(ctx, pause) {
			return 0, ctx.Err()
		}
		if info.NumPending == 0 || idle == patience {
			return rest, nil
		}
	}
}

func (sub *subscription) outstanding() int {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	return sub.requested
}
