package memory

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/ThreeDotsLabs/watermill/message"
)

// NoQueueError reports that there is no such queue.
type NoQueueError struct{ Queue string }

func (e *NoQueueError) Error() string { return fmt.Sprintf("memory: there is no queue %q", e.Queue) }

// NoQueue is true: tools find errors of all adapters by it.
func (e *NoQueueError) NoQueue() bool { return true }

// Browse calls visit for each message that waits in the queue when it begins, and
// takes those out for which visit returns true. The others are put back to their
// places at the end. It blocks as long as visit does.
func (b *Broker) Browse(ctx context.Context, queue string, visit func(msg *message.Message) (bool, error)) error {
	q, err := b.existing(queue)
	if err != nil {
		return err
	}
	var kept []*entry
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, e := range kept {
			q.put(e)
		}
	}()
	for newest := b.newest(); ctx.Err() == nil; {
		e := b.takeUpTo(q, newest)
		if e == nil {
			return nil
		}
		msg := message.NewMessage(e.uuid, slices.Clone(e.body))
		msg.Metadata = maps.Clone(e.metadata)
		take, err := visit(msg)
		if err != nil || !take {
			kept = append(kept, e)
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Inspect returns how many messages wait in the queue and how many subscriptions
// it has.
func (b *Broker) Inspect(_ context.Context, queue string) (messages, consumers int, err error) {
	q, err := b.existing(queue)
	if err != nil {
		return 0, 0, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(q.waiting), q.subscribers, nil
}

func (b *Broker) existing(queue string) (*msgQueue, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch q := b.queues[queue]; {
	case b.closed:
		return nil, ErrClosed
	case q == nil:
		return nil, &NoQueueError{queue}
	default:
		return q, nil
	}
}

func (b *Broker) newest() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last
}

// takeUpTo takes the first message out of a queue unless it is newer.
func (b *Broker) takeUpTo(q *msgQueue, newest uint64) *entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := q.take()
	if e != nil && e.number > newest {
		q.put(e)
		return nil
	}
	return e
}
