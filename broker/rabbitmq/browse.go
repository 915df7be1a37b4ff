package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/lockstep-go/lockstep/event"
)

// NoQueueError reports that there is no such queue.
type NoQueueError struct{ Queue string }

func (e *NoQueueError) Error() string { return fmt.Sprintf("rabbitmq: there is no queue %q", e.Queue) }

// NoQueue is true: tools find errors of all adapters by it.
func (e *NoQueueError) NoQueue() bool { return true }

// Browse calls visit for each message that waits in the queue when it begins, in
// the queue's order, and takes those out for which visit returns true and nil. The
// others stay unacknowledged until the end and are then back in their places: on a
// classic queue these are the old ones, and each is marked as redelivered.
// An error of visit ends it. It blocks as long as visit does, and for
// ConfirmTimeout at most for each answer of the server.
//
// Messages are fetched one by one, so that any number of them needs no memory. Where
// the server has a consumer timeout (30 minutes by default), that bounds the whole.
func (b *Broker) Browse(ctx context.Context, queue string, visit func(msg *message.Message) (bool, error)) error {
	c, ch, state, err := b.look(ctx, queue)
	if err != nil {
		return err
	}
	err = b.browse(ctx, c, ch, state, visit)
	// All that was not acknowledged goes back when the channel closes, and the
	// acknowledgements before it have been dealt with when that is answered.
	if closed := c.within(b.cfg.ConfirmTimeout, ch.Close); closed != nil && err == nil {
		err = fmt.Errorf("rabbitmq: browse %s: what was taken out may come again: %w", queue, closed)
	}
	return err
}

func (b *Broker) browse(
	ctx context.Context, c *conn, ch *amqp.Channel, state amqp.Queue, visit func(msg *message.Message) (bool, error),
) error {
	for range state.Messages { // not those that come in meanwhile
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var d amqp.Delivery
		var found bool
		err := c.within(b.cfg.ConfirmTimeout, func() (err error) {
			d, found, err = ch.Get(state.Name, false)
			return err
		})
		switch {
		case err != nil:
			return fmt.Errorf("rabbitmq: browse %s: %w", state.Name, err)
		case !found: // expired, or in somebody else's hands
			return nil
		}
		msg, _ := Marshaler{}.Unmarshal(d) // has no error
		if event.IsDirect(d.RoutingKey) {
			msg.Metadata[event.MetadataTopic] = d.RoutingKey
		}
		take, err := visit(msg)
		if err != nil {
			return err
		}
		if !take {
			continue
		}
		if err := ch.Ack(d.DeliveryTag, false); err != nil {
			return fmt.Errorf("rabbitmq: browse %s: take a message out: %w", state.Name, err)
		}
	}
	return nil
}

// Inspect returns how many messages wait in the queue, without those in consumers'
// hands, and how many consumers it has. It changes nothing and blocks for
// ConfirmTimeout at most.
func (b *Broker) Inspect(ctx context.Context, queue string) (messages, consumers int, err error) {
	c, ch, state, err := b.look(ctx, queue)
	if err != nil {
		return 0, 0, err
	}
	return state.Messages, state.Consumers, c.within(b.cfg.ConfirmTimeout, ch.Close)
}

// look opens a channel and asks for a queue, which it does not make.
func (b *Broker) look(ctx context.Context, queue string) (*conn, *amqp.Channel, amqp.Queue, error) {
	var state amqp.Queue
	if b.isClosing() {
		return nil, nil, state, ErrClosed
	}
	ctx, cancel := context.WithTimeout(ctx, b.cfg.ConfirmTimeout)
	defer cancel()
	c, err := b.consuming.await(ctx)
	if err != nil {
		return nil, nil, state, err
	}
	var ch *amqp.Channel
	err = c.within(b.cfg.ConfirmTimeout, func() (err error) {
		if ch, err = c.Channel(); err != nil {
			return fmt.Errorf("open a channel: %w", err)
		}
		if state, err = ch.QueueDeclarePassive(queue, true, false, false, false, nil); err != nil {
			return errors.Join(err, ignoreClosed(ch.Close()))
		}
		return nil
	})
	switch {
	case isNoQueue(err):
		return nil, nil, state, &NoQueueError{queue}
	case err != nil:
		return nil, nil, state, fmt.Errorf("rabbitmq: look at queue %s: %w", queue, err)
	}
	return c, ch, state, nil
}

// isNoQueue reports whether the server says that there is no such queue. It has the same code for one
// whose node is down.
func isNoQueue(err error) bool {
	var refused *amqp.Error
	return errors.As(err, &refused) && refused.Code == amqp.NotFound && strings.Contains(refused.Reason, "no queue ")
}

// ignoreClosed drops the error of closing what is closed already.
func ignoreClosed(err error) error {
	if errors.Is(err, amqp.ErrClosed) {
		return nil
	}
	return err
}
