package jetstream

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// DeleteQueue deletes the queue, its bindings and what is in it. A queue that
// does not exist is no error. For up to 30 seconds a message on a topic that
// only this queue was bound to may be confirmed although no queue gets it. It
// blocks until the server has answered, for ConfirmTimeout at most.
func (b *Broker) DeleteQueue(ctx context.Context, queue string) error {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.ConfirmTimeout)
	defer cancel()
	s, err := b.await(ctx)
	if err != nil {
		return err
	}
	b.mu.Lock()
	delete(b.bindings, queue)
	b.mu.Unlock()
	if err := s.stream.DeleteConsumer(ctx, durable(queue)); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("jetstream: delete queue %q: %w", queue, err)
	}
	return nil
}
