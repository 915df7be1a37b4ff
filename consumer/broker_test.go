package consumer

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// testBroker is a queue in memory whose every move a test can see or spoil.
type testBroker struct {
	mu        sync.Mutex
	bound     map[string][]string
	published map[string][]*message.Message // by topic
	delays    []time.Duration
	refuse    func(topic string, m *message.Message) error // nil takes all
	waiting   []*message.Message
	wake      chan struct{}
	acked     []*message.Message
	nacked    []*message.Message
	watchers  sync.WaitGroup
	watch     bool
	closed    chan struct{}
	requeue   bool // a nacked or retried message is delivered again
}

var errBrokerAway = errors.New("broker away")

func newTestBroker() *testBroker {
	return &testBroker{
		bound: map[string][]string{}, published: map[string][]*message.Message{},
		wake: make(chan struct{}, 1), closed: make(chan struct{}), watch: true,
	}
}

func (b *testBroker) Publish(topic string, messages ...*message.Message) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range messages {
		if b.refuse != nil {
			if err := b.refuse(topic, m); err != nil {
				return err
			}
		}
		b.published[topic] = append(b.published[topic], m)
		if b.requeue && slices.Contains(b.bound["replica"], topic) {
			b.waiting = append(b.waiting, m.Copy())
			b.poke()
		}
	}
	return nil
}

func (b *testBroker) Bind(_ context.Context, queue string, topics ...string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bound[queue] = append(b.bound[queue], topics...)
	return nil
}

func (b *testBroker) PublishAfter(_ context.Context, delay time.Duration, topic string, m *message.Message) error {
	b.mu.Lock()
	b.delays = append(b.delays, delay)
	b.mu.Unlock()
	return b.Publish(topic, m)
}

// deliver puts messages into the queue.
func (b *testBroker) deliver(messages ...*message.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting = append(b.waiting, messages...)
	b.poke()
}

func (b *testBroker) poke() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (b *testBroker) next() *message.Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiting) == 0 {
		return nil
	}
	m := b.waiting[0]
	b.waiting = b.waiting[1:]
	return m
}

func (b *testBroker) Subscribe(ctx context.Context, _ string) (<-chan *message.Message, error) {
	out := make(chan *message.Message, 1000)
	go func() {
		defer close(out)
		for {
			m := b.next()
			if m == nil {
				select {
				case <-b.wake:
					continue
				case <-ctx.Done():
					return
				case <-b.closed:
					return
				}
			}
			if b.watch {
				b.watchers.Add(1)
				go b.settled(ctx, m)
			}
			select {
			case out <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

// settled notes what became of a message.
func (b *testBroker) settled(ctx context.Context, m *message.Message) {
	defer b.watchers.Done()
	select {
	case <-m.Acked():
	case <-m.Nacked():
	case <-ctx.Done(): // perhaps it was settled just before, and nobody has looked since
	}
	select {
	case <-m.Acked():
		b.mu.Lock()
		b.acked = append(b.acked, m)
		b.mu.Unlock()
	case <-m.Nacked():
		b.mu.Lock()
		b.nacked = append(b.nacked, m)
		b.mu.Unlock()
		if b.requeue {
			b.deliver(m.Copy())
		}
	default:
	}
}

func (b *testBroker) Close() error {
	close(b.closed)
	return nil
}

func (b *testBroker) setRefuse(refuse func(topic string, m *message.Message) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refuse = refuse
}

// on returns what was published on a topic.
func (b *testBroker) on(topic string) []*message.Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.published[topic])
}

// counts returns how many messages were acknowledged and given back.
func (b *testBroker) counts() (acked, nacked int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.acked), len(b.nacked)
}
