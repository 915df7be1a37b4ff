package jetstream

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
)

// What a consumer answers to a delivery.
const (
	bodyAck      = "+ACK"
	bodyNak      = "-NAK"
	bodyProgress = "+WPI"
	// bodyNakAtStop is a -NAK that the server writes to disk, as a plain one is
	// not, so that after its restart nobody waits for AckWait. The delay of a
	// nanosecond is what does it; where no restart is coming, a plain one is
	// better, for the delay lets later messages pass.
	bodyNakAtStop = `-NAK {"delay":1}`
)

// delivery is a message that the server has handed to this subscription.
type delivery struct {
	msg     *message.Message
	raw     *nats.Msg
	number  uint64    // in the order of arrival
	touched time.Time // when the server last heard of it
}

// sequence is the message's place in the stream.
func (d *delivery) sequence() uint64 {
	meta, err := d.raw.Metadata()
	if err != nil {
		return 0
	}
	return meta.Sequence.Stream
}

// hand puts arrived messages into the user's channel, one after the other.
func (sub *subscription) hand(ctx context.Context) {
	defer close(sub.out)
	for {
		d := sub.first()
		if d == nil {
			select {
			case <-ctx.Done():
				return
			case <-sub.news:
				continue
			}
		}
		one, cancel := context.WithCancel(ctx)
		d.msg.SetContext(one)
		select {
		case sub.out <- d.msg:
			sub.dropFirst()
			sub.b.watching.Go(func() {
				defer cancel()
				sub.watch(d)
			})
		case <-ctx.Done():
			cancel()
			return
		}
	}
}

func (sub *subscription) first() *delivery {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	if len(sub.arrived) == 0 {
		return nil
	}
	return sub.arrived[0]
}

func (sub *subscription) dropFirst() {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	sub.arrived[0] = nil
	sub.arrived = sub.arrived[1:]
}

// watch waits for the settlement of a message that was handed on.
func (sub *subscription) watch(d *delivery) {
	select {
	case <-d.msg.Acked():
		sub.settle(d, bodyAck)
		return
	case <-d.msg.Nacked():
		sub.settle(d, bodyNak)
		return
	case <-sub.over:
	}
	// Nobody renews it any more: after AckWait the server takes it back.
	grace := time.NewTimer(sub.grace())
	defer grace.Stop()
	select {
	case <-d.msg.Acked():
		sub.settle(d, bodyAck)
	case <-d.msg.Nacked():
		sub.settle(d, bodyNak)
	case <-grace.C:
		sub.forget(d)
	case <-sub.b.released:
		sub.settle(d, sub.verdict(d))
	}
}

func (sub *subscription) grace() time.Duration {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	return sub.ackWait
}

// settle answers a delivery, once, and makes room for another.
func (sub *subscription) settle(d *delivery, body string) {
	if !sub.forget(d) {
		return
	}
	if s := sub.b.current(); s != nil {
		s.tell(d.raw.Reply, body)
	}
	poke(sub.more)
}

// forget stops holding a delivery and reports whether it was held.
func (sub *subscription) forget(d *delivery) bool {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	_, ok := sub.held[d]
	delete(sub.held, d)
	return ok
}

// verdict is the answer for a delivery whose time has run out.
func (sub *subscription) verdict(d *delivery) string {
	select {
	case <-d.msg.Acked():
		return bodyAck
	default:
	}
	if sub.b.server != nil && sub.b.isClosing() {
		return bodyNakAtStop
	}
	return bodyNak
}

// release gives back, in the order of the queue, what the subscription holds at
// its end: what was not handed on, and when the Broker is closing the rest too.
func (sub *subscription) release() {
	sub.mu.Lock()
	back := sub.arrived
	sub.arrived = nil
	if sub.b.isClosing() {
		back = back[:0]
		for d := range sub.held {
			back = append(back, d)
		}
	}
	for _, d := range back {
		delete(sub.held, d)
	}
	sub.mu.Unlock()
	s := sub.b.current()
	if s == nil || len(back) == 0 {
		return
	}
	slices.SortFunc(back, func(x, y *delivery) int { return cmp.Compare(x.sequence(), y.sequence()) })
	last := back[len(back)-1]
	for _, d := range back[:len(back)-1] {
		s.tell(d.raw.Reply, sub.verdict(d))
	}
	// The server deals with the answers one by one and confirms this one, so
	// when it has, it has dealt with all of them.
	_, _ = s.nc.Request(last.raw.Reply, []byte(sub.verdict(last)), sub.b.cfg.ConfirmTimeout) // else AckWait brings them back
}

// note is what the server says about a request for messages.
type note struct {
	status string
	rest   int // what it will not send of the request; -1: not said
}

// noteOf reads a status message.
func noteOf(m *nats.Msg) note {
	n := note{status: m.Header.Get("Status"), rest: -1}
	if rest, err := strconv.Atoi(m.Header.Get("Nats-Pending-Messages")); err == nil {
		n.rest = rest
	}
	return n
}

// Statuses of notes; any other means that the queue must be looked at anew.
const (
	statusHeartbeat = "100"
	statusNoMore    = "404" // nothing is there, or all that was has come
	statusExpired   = "408" // the request's time is over
)

// heed draws the consequences of a note.
func (sub *subscription) heed(n note) error {
	if n.status != statusExpired {
		return errGone
	}
	sub.mu.Lock()
	defer sub.mu.Unlock()
	if n.rest < 0 {
		n.rest = sub.requested
	}
	sub.requested = max(0, sub.requested-n.rest)
	return nil
}
