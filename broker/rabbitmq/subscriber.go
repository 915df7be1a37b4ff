package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"
)

// ackGrace is how long a subscription that has ended still sends acknowledgements of the messages it
// handed on, so that work which is just being finished is not delivered again.
const ackGrace = 5 * time.Second

// consumerTag names the only consumer of a channel.
const consumerTag = "lockstep"

// Subscribe hands on the messages of a queue (in Watermill's words, a topic), in the order of delivery
// and up to Prefetch of them without waiting for acknowledgements. A queue that [Broker.Bind] has not
// bound is declared and bound to the topic of its own name.
//
// Ack acknowledges, Nack puts the message back into the queue. Both take effect within milliseconds; the
// message's context ends then. Acknowledgements of messages whose connection is gone have no effect:
// these messages come again.
//
// The channel is closed, by the broker alone, when ctx ends or Close is called. Messages handed on before
// can still be acked for five seconds after the end of ctx. Subscribe blocks until the queue is declared,
// at most for twice ConfirmTimeout; after that every loss is mended in the background, for ever.
func (b *Broker) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if err := b.initialize(ctx, topic); err != nil {
		return nil, err
	}
	s := &subscription{
		queue: topic, prefetch: b.cfg.Prefetch, timeout: b.cfg.ConfirmTimeout,
		link: b.consuming, topology: b.topology, log: b.cfg.Logger.With(keyQueue, topic),
		closing: b.closing, out: make(chan *message.Message),
	}
	ctx, cancel := context.WithCancel(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.isClosing() {
		cancel()
		return nil, ErrClosed
	}
	b.subscriptions[s] = cancel
	b.workers.Go(func() {
		s.run(ctx)
		cancel()
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.subscriptions, s)
	})
	return s.out, nil
}

// SubscribeInitialize declares the queue as [Broker.Subscribe] would.
func (b *Broker) SubscribeInitialize(topic string) error {
	return b.initialize(context.Background(), topic)
}

func (b *Broker) initialize(ctx context.Context, queue string) error {
	if b.isClosing() {
		return ErrClosed
	}
	if b.topology.has(queue) {
		return nil
	}
	return b.Bind(ctx, queue, queue)
}

// subscription consumes one queue. Its only goroutine, run, owns all its state.
type subscription struct {
	queue    string
	prefetch int
	timeout  time.Duration
	link     *link
	topology *topology
	log      *slog.Logger
	closing  <-chan struct{}
	out      chan *message.Message

	conn    *conn
	ch      *amqp.Channel
	in      <-chan amqp.Delivery
	gone    <-chan *amqp.Error // the channel has ended
	cancels <-chan string      // the server has ended the consumer

	next delivered // received, to be handed on; no message if its msg is nil
	held []delivered
}

// run consumes until ctx ends.
func (s *subscription) run(ctx context.Context) {
	stopped := false
	for retry := (backoff{}); ctx.Err() == nil; retry.pause(ctx) {
		c, err := s.link.await(ctx)
		if err != nil {
			break // only when ctx has ended or the link has
		}
		if err = s.consume(c); err == nil {
			if stopped {
				s.log.Info("rabbitmq: consuming again")
				stopped = false
			}
			retry = backoff{}
			if err = s.handOn(ctx); err == nil {
				close(s.out)
				s.finish()
				return
			}
		}
		if !stopped && !c.IsClosed() { // of a lost connection the link tells
			stopped = true
			s.log.Warn("rabbitmq: consuming stopped, trying again", keyError, err)
		}
	}
	close(s.out)
}

// consume opens a channel on the queue, which it declares.
func (s *subscription) consume(c *conn) error {
	return c.within(s.timeout, func() error {
		ch, err := c.Channel()
		if err != nil {
			return fmt.Errorf("open a channel: %w", err)
		}
		s.conn, s.ch = c, ch
		s.gone = ch.NotifyClose(make(chan *amqp.Error, 1))
		s.cancels = ch.NotifyCancel(make(chan string, 1))
		if err = s.topology.declareQueue(ch, s.queue); err == nil {
			err = ch.Qos(s.prefetch, 0, false)
		}
		if err == nil {
			s.in, err = ch.Consume(s.queue, consumerTag, false, false, false, false, nil)
		}
		if err != nil {
			return errors.Join(err, ch.Close())
		}
		return nil
	})
}

// handOn hands messages on and sends acknowledgements until ctx ends (nil) or the channel does.
func (s *subscription) handOn(ctx context.Context) error {
	rescan := time.NewTimer(rescanEvery)
	defer rescan.Stop()
	s.next = delivered{}
	for ctx.Err() == nil { // which select alone would heed only at times
		in, out := s.in, s.out
		if s.next.msg == nil {
			out = nil
		} else {
			in = nil
		}
		acked, nacked := s.oldest()
		select {
		case d, ok := <-in:
			if ok { // else s.gone or s.cancels tells why
				s.next = receive(ctx, s.ch, d)
			} else {
				s.in = nil
			}
		case out <- s.next.msg:
			s.held = append(s.held, s.next)
			s.next = delivered{}
			if len(s.held) == 2 { // with one, waiting for the oldest is enough
				rescan.Reset(rescanEvery)
			}
		case <-acked:
			s.acknowledge(false)
		case <-nacked:
			s.acknowledge(false)
		case <-rescan.C:
			s.acknowledge(true)
			if len(s.held) > 1 {
				rescan.Reset(rescanEvery)
			}
		case err := <-s.gone:
			s.next.drop()
			return fmt.Errorf("queue %s: the channel has ended: %w", s.queue, cause(err))
		case <-s.cancels:
			s.next.drop()
			s.end()
			return fmt.Errorf("queue %s: the server has ended the consumer; was the queue deleted?", s.queue)
		case <-ctx.Done():
		}
	}
	return nil
}

// finish gives back what was not handed on and waits a moment for the acknowledgements of the rest.
func (s *subscription) finish() {
	defer s.end()
	defer s.acknowledge(true)
	select {
	case <-s.closing:
		return
	default:
	}
	if err := s.conn.within(s.timeout, func() error { return s.ch.Cancel(consumerTag, false) }); err != nil {
		return // the channel is gone, and with it our hold on the messages
	}
	s.giveBack()
	grace := time.NewTimer(ackGrace)
	defer grace.Stop()
	rescan := time.NewTicker(rescanEvery)
	defer rescan.Stop()
	for len(s.held) > 0 {
		select {
		case <-rescan.C:
			s.acknowledge(true)
		case <-s.gone: //nolint:errcheck // its end is all that counts
			return
		case <-s.closing:
			return
		case <-grace.C:
			return
		}
	}
}

func (s *subscription) giveBack() {
	if s.next.msg != nil {
		s.next.nack()
		s.next.drop()
	}
	for s.in != nil {
		d, ok := <-s.in
		if !ok {
			return
		}
		_ = d.Nack(false, true) // a channel that is gone gives back by itself
	}
}

// end closes the channel, which puts all that is not acked back into the queue.
func (s *subscription) end() { _ = s.conn.within(closeTimeout, s.ch.Close) }

func cause(err *amqp.Error) error {
	if err == nil {
		return amqp.ErrClosed
	}
	return err
}
