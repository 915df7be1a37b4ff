package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// publisher sends batches over a link. Its only goroutine, run, owns the channel: what it takes from
// the queue it sends before anything else, which is what keeps messages in order.
type publisher struct {
	link     *link
	topology *topology
	log      *slog.Logger
	timeout  time.Duration
	window   int
	doubts   *doubts

	queue   chan *batch
	closing chan struct{} // closed when no more batches are taken

	mu      sync.Mutex
	session *session // the last one; may be dead
	err     error    // why there is none
}

// publish hands a batch over, waiting for the batches before it until the batch's deadline.
func (p *publisher) publish(ctx context.Context, b *batch) {
	timer := time.NewTimer(time.Until(b.deadline))
	defer timer.Stop()
	select {
	case <-p.closing: // a select of many would still hand over at times
		b.fail(ErrClosed)
		return
	default:
	}
	select {
	case p.queue <- b:
	case <-p.closing:
		b.fail(ErrClosed)
	case <-ctx.Done():
		b.fail(fmt.Errorf("rabbitmq: publish: %w", context.Cause(ctx)))
	case <-timer.C:
		b.fail(fmt.Errorf("rabbitmq: publish: %w", p.trouble()))
	}
}

// run publishes until ctx ends, then waits a moment for the confirms of what is under way.
func (p *publisher) run(ctx context.Context) {
	defer p.end()
	for retry := (backoff{}); ctx.Err() == nil; {
		s, err := p.open(ctx)
		if err != nil {
			if retry.tries == 0 && isException(err) { // of a lost connection the link tells
				p.log.Warn("rabbitmq: no channel to publish on, trying again", keyError, err)
			}
			retry.pause(ctx)
			continue
		}
		retry = backoff{}
		rest := p.serve(ctx, s)
		if ctx.Err() != nil {
			fail(rest, ErrClosed)
			return
		}
		_ = p.settle(ctx, append(s.unconfirmed(), rest...), s.cause)
	}
}

// end closes the channel and settles what is left.
func (p *publisher) end() {
	s := p.last()
	if s == nil {
		return
	}
	s.end(min(p.timeout, closeTimeout))
	fail(s.unconfirmed(), ErrClosed)
}

// nackedAge is how old a channel must be to be given up for a nack: full queues nack again and again.
const nackedAge = time.Second

// serve sends batches until the session is dead or ctx ends. It returns what it could not send.
//
// After a nack it takes another channel: one that has first published to a quorum queue while that had no
// leader asks the dead one for ever, and nacks all.
func (p *publisher) serve(ctx context.Context, s *session) (rest []*delivery) {
	for {
		select {
		case <-s.nacked:
			if time.Since(s.opened) > nackedAge {
				s.end(p.timeout)
				return nil
			}
		case b := <-p.queue:
			if rest := p.sendQueued(s, b); len(rest) > 0 {
				<-s.dead
				return rest
			}
		case <-s.dead:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// sendQueued sends b and the batches that have been queued meanwhile, all in one go.
func (p *publisher) sendQueued(s *session, b *batch) (rest []*delivery) {
	s.conn.sock.cork()
	defer s.conn.sock.uncork()
	for {
		if rest := s.send(b.wanted(), b.deadline); len(rest) > 0 {
			return rest
		}
		select {
		case b = <-p.queue:
		default:
			return nil
		}
	}
}

// open returns the session, a new one if the last is dead. It waits for a connection until ctx ends.
func (p *publisher) open(ctx context.Context) (*session, error) {
	if s := p.last(); s != nil {
		select {
		case <-s.dead:
		default:
			return s, nil
		}
	}
	c, err := p.link.await(ctx)
	if err != nil {
		p.set(nil, err)
		return nil, err
	}
	var s *session
	err = c.within(p.timeout, func() error {
		ch, err := c.Channel()
		if err != nil {
			return fmt.Errorf("open a channel: %w", err)
		}
		if err := p.topology.declareAll(ch); err != nil {
			return errors.Join(err, ch.Close())
		}
		s, err = newSession(p.link, c, ch, p.doubts, p.window)
		return err
	})
	p.set(s, err)
	if err == nil {
		go s.collect() // ends with the channel, which settle or end awaits
	}
	return s, err
}

// settle decides about deliveries in doubt: their channel ended before they were confirmed. If that
// was a lost connection they all fail. If RabbitMQ closed the channel because of one of them, each
// half is sent again on its own, which finds the culprit in a few steps, keeps the order and has all
// the others confirmed. It returns the outage that ended the search, if there was one.
func (p *publisher) settle(ctx context.Context, ds []*delivery, cause error) error {
	if len(ds) == 0 {
		return nil
	}
	refused := refusal(ds[0], cause)
	if refused == nil {
		err := ErrClosed
		if ctx.Err() == nil {
			err = fmt.Errorf("rabbitmq: publish: the channel ended before the confirm: %w", cause)
		}
		fail(ds, err)
		return err
	}
	if len(ds) == 1 {
		ds[0].settle(refused)
		return nil
	}
	half := len(ds) / 2
	for _, part := range [][]*delivery{ds[:half], ds[half:]} {
		rest, err := p.resend(ctx, part)
		if err = p.settle(ctx, rest, err); err != nil {
			fail(ds, err)
			return err
		}
	}
	return nil
}

// resend publishes deliveries again, unless their callers have given up, and waits for the confirms.
// It returns those that are still in doubt, and why.
func (p *publisher) resend(ctx context.Context, ds []*delivery) (rest []*delivery, cause error) {
	var wanted []*delivery
	for _, d := range ds {
		if !d.done() {
			wanted = append(wanted, d)
		}
	}
	if len(wanted) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	s, err := p.open(ctx)
	if err != nil {
		return wanted, errors.New(err.Error()) // not wrapped: no message is to blame for an exception in it
	}
	s.conn.sock.cork()
	rest = s.send(wanted, time.Now().Add(p.timeout))
	s.conn.sock.uncork()
	if s.drain(p.timeout) && len(rest) == 0 {
		return nil, nil
	}
	<-s.dead
	return append(s.unconfirmed(), rest...), s.cause
}

// giveUp is called when confirms did not come in time, and says why. It cuts the connection if none
// came at all. Everything in doubt then fails, and the link dials again. Closing only the channel would
// need the help of the silent server.
func (p *publisher) giveUp() error {
	s := p.last()
	if s == nil {
		return fmt.Errorf("rabbitmq: publish: %w", p.trouble())
	}
	if s.conn.blocked.Load() {
		return s.blocked()
	}
	if s.silent(p.timeout) {
		p.log.Warn("rabbitmq: no confirm came, giving up the connection", keyTook, p.timeout)
		s.conn.cut()
	}
	return fmt.Errorf("rabbitmq: publish: not confirmed within %v", p.timeout)
}

func (p *publisher) last() *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.session
}

func (p *publisher) set(s *session, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.session, p.err = s, err
}

// trouble says why no batch is taken.
func (p *publisher) trouble() error {
	if err := p.link.trouble(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return p.err
	}
	return fmt.Errorf("earlier messages wait for the broker for %v", p.timeout)
}

func fail(ds []*delivery, err error) {
	for _, d := range ds {
		d.settle(err)
	}
}
