package rabbitmq

import (
	"context"
	"fmt"
	"slices"

	amqp "github.com/rabbitmq/amqp091-go"
)

// DeleteQueue deletes the queue, its bindings and what is in it. A queue that does not exist is no
// error. It blocks until the broker has answered, for ConfirmTimeout at most.
func (b *Broker) DeleteQueue(ctx context.Context, queue string) error {
	if b.isClosing() {
		return ErrClosed
	}
	ctx, cancel := context.WithTimeout(ctx, b.cfg.ConfirmTimeout)
	defer cancel()
	c, err := b.consuming.await(ctx)
	if err != nil {
		return err
	}
	b.topology.forget(queue)
	err = b.declareOn(c, func(ch *amqp.Channel) error {
		_, err := ch.QueueDelete(queue, false, false, false)
		return err
	})
	if err != nil {
		return fmt.Errorf("rabbitmq: delete queue %s: %w", queue, err)
	}
	return nil
}

func (t *topology) forget(queue string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bindings = slices.DeleteFunc(t.bindings, func(b binding) bool { return b.QueueName == queue })
}
