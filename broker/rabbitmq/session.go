package rabbitmq

import (
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// session is one channel in confirm mode, and what was published on it and is not confirmed.
//
// One goroutine publishes (send). Another (collect) reads confirms and returns; it must never wait for
// the first, since amqp091 reads nothing from the socket until they are taken. amqp091's
// DeferredConfirmation would do the bookkeeping, at the price of a lock and a channel for each message.
type session struct {
	link   *link
	conn   *conn
	ch     *amqp.Channel
	doubts *doubts // of the publisher

	returns  chan amqp.Return // not buffered: a return is taken before the confirm behind it is read
	confirms chan amqp.Confirmation
	closes   chan *amqp.Error
	settled  chan struct{} // of size one; filled when deliveries were confirmed
	nacked   chan struct{} // of size one; filled when one was nacked
	opened   time.Time
	dead     chan struct{} // closed when the channel is gone and all its confirms are taken
	cause    error         // why, set before dead is closed

	mu         sync.Mutex
	ring       []*delivery // by tag, modulo its length, which is the window
	first      uint64      // tag of the oldest unconfirmed delivery
	next       uint64      // tag of the next delivery
	returnedTo uint64      // tags below were searched for returns: returns come in the order of publishing
	heard      time.Time   // when something was confirmed, or else when the first delivery was sent
}

// newSession puts ch into confirm mode. The caller runs collect.
func newSession(l *link, c *conn, ch *amqp.Channel, doubts *doubts, window int) (*session, error) {
	if err := ch.Confirm(false); err != nil {
		return nil, fmt.Errorf("confirm mode: %w", err)
	}
	return &session{
		link: l, conn: c, ch: ch, doubts: doubts,
		returns:  ch.NotifyReturn(make(chan amqp.Return)),
		confirms: ch.NotifyPublish(make(chan amqp.Confirmation, window)),
		closes:   ch.NotifyClose(make(chan *amqp.Error, 1)),
		settled:  make(chan struct{}, 1),
		nacked:   make(chan struct{}, 1),
		opened:   time.Now(),
		dead:     make(chan struct{}),
		ring:     make([]*delivery, window),
		first:    1, next: 1, returnedTo: 1,
	}, nil
}

// send publishes deliveries in order and returns those that it could not, because the channel ended.
// Deliveries for which there is no room until the deadline are failed. The socket is corked.
func (s *session) send(ds []*delivery, deadline time.Time) (rest []*delivery) {
	for i, d := range ds {
		if reason := d.tooWide(s.conn.Config.FrameSize); reason != "" {
			d.settle(d.refused(reason))
			continue
		}
		if err := s.room(deadline); err != nil {
			for _, d := range ds[i:] {
				d.settle(err)
			}
			return nil
		}
		if !s.push(d) {
			return ds[i:]
		}
		// An error means that the channel is ending: the delivery is one of those in doubt.
		if err := s.ch.Publish(d.exchange, d.topic, true, false, d.publishing); err != nil {
			return ds[i+1:]
		}
	}
	return nil
}

// room waits until the broker takes messages and the window has a place, or the session is dead.
func (s *session) room(deadline time.Time) error {
	if s.inFlight() < len(s.ring) && !s.conn.blocked.Load() {
		return nil
	}
	s.conn.sock.uncork()
	defer s.conn.sock.cork()
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	for {
		_, changed, _ := s.link.state() // before the look at blocked, so that no change is missed
		blocked := s.conn.blocked.Load()
		if s.inFlight() < len(s.ring) && !blocked {
			return nil
		}
		select {
		case <-s.settled:
		case <-changed:
		case <-s.dead:
			return nil
		case <-timer.C:
			if blocked {
				return s.blocked()
			}
			return fmt.Errorf("rabbitmq: publish: %d messages wait for their confirms", len(s.ring))
		}
	}
}

func (s *session) blocked() error {
	return fmt.Errorf("rabbitmq: publish: %s blocks publishing", s.link.dialer.address)
}

func (s *session) inFlight() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.next - s.first) //nolint:gosec // at most the window
}

// push enters the delivery before it is published, since its confirm can be there before Publish
// returns. False means that the session is dead.
func (s *session) push(d *delivery) bool {
	select {
	case <-s.dead:
		return false
	default:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first == s.next {
		s.heard = time.Now()
	}
	d.returned = false
	*s.slot(s.next) = d
	s.next++
	return true
}

func (s *session) slot(tag uint64) **delivery { return &s.ring[tag%uint64(len(s.ring))] }

// collect settles deliveries until the channel is gone. amqp091 gives confirms one by one and in the
// order of tags, whatever RabbitMQ sent.
func (s *session) collect() {
	defer close(s.dead)
	returns := s.returns
	for {
		select {
		case r, ok := <-returns:
			if !ok {
				returns = nil
				continue
			}
			s.returned(r)
		case c, ok := <-s.confirms:
			if !ok {
				s.cause = s.reason()
				return
			}
			s.confirmed(c)
			select {
			case s.settled <- struct{}{}:
			default:
			}
		}
	}
}

func (s *session) reason() error {
	if err := <-s.closes; err != nil {
		return err
	}
	return amqp.ErrClosed
}

// confirmed takes c and what has come behind it, to lock once for many.
func (s *session) confirmed(c amqp.Confirmation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = time.Now()
	for more := len(s.confirms); ; more-- {
		if c.DeliveryTag == s.first && s.first < s.next {
			s.pop(c.Ack)
		}
		if more == 0 {
			return
		}
		var ok bool
		if c, ok = <-s.confirms; !ok {
			return
		}
	}
}

func (s *session) pop(ack bool) {
	slot := s.slot(s.first)
	d := *slot
	*slot = nil
	s.first++
	switch {
	case !ack:
		d.settle(s.doubts.nacked(d))
		select {
		case s.nacked <- struct{}{}:
		default:
		}
	case d.returned:
		d.settle(s.doubts.returned(d))
	default:
		s.doubts.confirmed(d)
		d.settle(nil)
	}
}

// returned marks the oldest delivery, not returned yet, that the return can speak of.
func (s *session) returned(r amqp.Return) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for tag := max(s.first, s.returnedTo); tag < s.next; tag++ {
		d := *s.slot(tag)
		if d.publishing.MessageId == r.MessageId && d.topic == r.RoutingKey && d.exchange == r.Exchange {
			d.returned = true
			s.returnedTo = tag + 1
			return
		}
	}
}

// unconfirmed empties a dead session.
func (s *session) unconfirmed() []*delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	ds := make([]*delivery, 0, s.next-s.first)
	for ; s.first < s.next; s.first++ {
		ds = append(ds, *s.slot(s.first))
	}
	return ds
}

// end closes the channel when everything is confirmed, or after the timeout.
func (s *session) end(timeout time.Duration) {
	s.drain(timeout)
	_ = s.conn.within(closeTimeout, s.ch.Close) // gone already: as good
	<-s.dead
}

// drain waits until everything is confirmed or the session is dead, and reports which.
func (s *session) drain(timeout time.Duration) (drained bool) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for s.inFlight() > 0 {
		select {
		case <-s.settled:
		case <-s.dead:
			return s.inFlight() == 0
		case <-timer.C:
			s.conn.cut()
			<-s.dead
			return s.inFlight() == 0
		}
	}
	return true
}

// silent reports whether unconfirmed messages have waited for the timeout without any confirm.
func (s *session) silent(timeout time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first < s.next && time.Since(s.heard) >= timeout
}
