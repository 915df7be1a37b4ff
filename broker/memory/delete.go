package memory

import (
	"context"
	"slices"
)

// DeleteQueue deletes the queue, its bindings and what is in it. A queue that
// does not exist is no error. It does not block.
func (b *Broker) DeleteQueue(_ context.Context, queue string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrClosed
	}
	q := b.queues[queue]
	delete(b.queues, queue)
	for topic, queues := range b.topics {
		b.topics[topic] = slices.DeleteFunc(queues, func(bound *msgQueue) bool { return bound == q })
	}
	return nil
}
