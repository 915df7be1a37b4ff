// Package memory is Lockstep's broker inside one process, for tests: a topic
// exchange with queues that has the semantics of the real adapters, and no
// server, no files and no protocol.
//
//	b, err := memory.Open(ctx, memory.Config{})
//	if err != nil { … }
//	defer b.Close()
//	err = b.Bind(ctx, "billing", "account")
//	err = b.Publish("account", message.NewMessage(watermill.NewUUID(), body))
//	messages, err := b.Subscribe(ctx, "billing")
//
// A [Broker] shares nothing with another one. What it holds is gone when it is
// closed. Messages are copied on their way in, so that sender and receivers
// share no memory. It takes its time from package time alone and keeps to the
// goroutines and timers of its callers' bubble, so it works under
// testing/synctest.
//
// Delivery is in the order of publishing, requeued messages at their old
// place. A message on a topic that no queue is bound to fails with a [RefusedError]
// whose Unroutable is true; no other error is Unroutable. Publish lets it go if its
// topic is a broadcast one. A delayed message that no queue is bound for when its
// time has come is gone.
//
// A Broker is safe for concurrent use.
package memory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/event"
)

// Config says how a Broker behaves. The zero value is what most tests need.
type Config struct {
	// Prefetch is the number of unacknowledged messages that one subscription
	// holds. Default 1001, as django-cqrs has it.
	Prefetch int
}

const defaultPrefetch = 1001

// Broker is a topic exchange with its queues. It satisfies Watermill's
// Publisher, Subscriber and SubscribeInitializer. Make one with [Open].
type Broker struct {
	prefetch int
	closing  chan struct{}
	running  sync.WaitGroup // subscriptions and the messages in users' hands

	mu     sync.Mutex
	closed bool
	topics map[string][]*msgQueue // bindings, in the order they were made
	queues map[string]*msgQueue
	timers map[*time.Timer]struct{} // of delayed messages
	last   uint64                   // number of the newest message
}

// Open returns an empty Broker. It does not block; its only errors are those of
// the Config.
func Open(_ context.Context, cfg Config) (*Broker, error) {
	if cfg.Prefetch == 0 {
		cfg.Prefetch = defaultPrefetch
	}
	if cfg.Prefetch < 0 {
		return nil, fmt.Errorf("memory: config: Prefetch is %d, not positive", cfg.Prefetch)
	}
	return &Broker{
		prefetch: cfg.Prefetch,
		closing:  make(chan struct{}),
		topics:   map[string][]*msgQueue{},
		queues:   map[string]*msgQueue{},
		timers:   map[*time.Timer]struct{}{},
	}, nil
}

// Publish puts the messages into the queues that are bound to the topic. It
// does not block. The errors of refused messages come joined; the others have
// been published.
func (b *Broker) Publish(topic string, msgs ...*message.Message) error {
	errs := b.publish(slices.Repeat([]string{topic}, len(msgs)), msgs)
	return errors.Join(slices.DeleteFunc(errs, func(err error) bool { return event.Unwanted(topic, err) })...)
}

// PublishAsync publishes the messages in their order, each on the topic of the
// same index. The returned function has the outcome: nil if all are published,
// else one entry for each message. Neither blocks.
func (b *Broker) PublishAsync(_ context.Context, topics []string, msgs []*message.Message) func(context.Context) []error {
	errs := b.publish(topics, msgs)
	return func(context.Context) []error { return errs }
}

func (b *Broker) publish(topics []string, msgs []*message.Message) []error {
	if len(topics) != len(msgs) {
		err := fmt.Errorf("memory: publish: %d topics for %d messages", len(topics), len(msgs))
		return slices.Repeat([]error{err}, max(1, len(msgs)))
	}
	errs := make([]error, len(msgs))
	failed := false
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, msg := range msgs {
		errs[i] = b.publishOne(topics[i], msg)
		failed = failed || errs[i] != nil
	}
	if !failed {
		return nil
	}
	return errs
}

// publishOne puts one message into its queues. Callers hold mu.
func (b *Broker) publishOne(topic string, msg *message.Message) error {
	if b.closed {
		return ErrClosed
	}
	p, err := b.accept(topic, msg)
	if err != nil {
		return err
	}
	if len(b.topics[topic]) == 0 {
		return &RefusedError{Topic: topic, UUID: p.uuid, Reason: errUnbound, unroutable: true}
	}
	b.route(topic, p)
	return nil
}

// parcel is a published message. Its fields are not changed any more.
type parcel struct {
	uuid     string
	body     []byte
	metadata map[string]string
	life     time.Duration // 0: no limit
}

// accept copies a message.
func (b *Broker) accept(topic string, msg *message.Message) (parcel, error) {
	if msg == nil {
		return parcel{}, &RefusedError{Topic: topic, Reason: fmt.Errorf("%w: it is nil", errMalformed)}
	}
	refuse := func(format string, args ...any) (parcel, error) {
		reason := fmt.Errorf("%w: "+format, append([]any{errMalformed}, args...)...)
		return parcel{}, &RefusedError{Topic: topic, UUID: msg.UUID, Reason: reason}
	}
	if topic == "" {
		return refuse("the topic is empty")
	}
	p := parcel{uuid: msg.UUID, body: slices.Clone(msg.Payload), metadata: make(map[string]string, len(msg.Metadata))}
	for key, value := range msg.Metadata {
		if key != event.MetadataTTL {
			p.metadata[key] = value
			continue
		}
		ms, err := strconv.ParseInt(value, 10, 64)
		if err != nil || ms < 0 || ms > maxLife.Milliseconds() {
			return refuse("%s is %.30q, not a number of milliseconds below a century", key, value)
		}
		p.life = time.Duration(max(ms, 1)) * time.Millisecond
	}
	return p, nil
}

// maxLife keeps sums of times in range.
const maxLife = 100 * 365 * 24 * time.Hour

// route puts a message into every queue bound to the topic. Callers hold mu.
func (b *Broker) route(topic string, p parcel) {
	b.last++
	var expires time.Time
	if p.life > 0 {
		expires = time.Now().Add(p.life)
	}
	for _, q := range b.topics[topic] {
		q.put(&entry{parcel: p, number: b.last, expires: expires})
	}
}

// PublishAfter publishes the message on the topic when the delay is over, to
// the queues that are bound then. It does not block. event.MetadataTTL counts
// from the end of the delay.
func (b *Broker) PublishAfter(_ context.Context, delay time.Duration, topic string, msg *message.Message) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if delay <= 0 {
		return b.publishOne(topic, msg)
	}
	if b.closed {
		return ErrClosed
	}
	p, err := b.accept(topic, msg)
	if err != nil {
		return err
	}
	var timer *time.Timer
	timer = time.AfterFunc(delay, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if _, ok := b.timers[timer]; ok {
			delete(b.timers, timer)
			b.route(topic, p)
		}
	})
	b.timers[timer] = struct{}{}
	return nil
}

// Bind makes the queue if it does not exist and binds it to the topics, keeping
// the bindings it has. It does not block.
func (b *Broker) Bind(_ context.Context, queue string, topics ...string) error {
	if queue == "" {
		return errors.New("memory: bind: the queue's name is empty")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrClosed
	}
	q, ok := b.queues[queue]
	if !ok {
		q = &msgQueue{changed: make(chan struct{})}
		b.queues[queue] = q
	}
	for _, topic := range topics {
		if topic == "" {
			return fmt.Errorf("memory: bind %q: a topic is empty", queue)
		}
		if !slices.Contains(b.topics[topic], q) {
			b.topics[topic] = append(b.topics[topic], q)
			q.bound = true
		}
	}
	return nil
}

// Close ends all subscriptions and drops what the Broker holds. Calls after the
// first return nil.
func (b *Broker) Close() error {
	b.mu.Lock()
	first := !b.closed
	b.closed = true
	for timer := range b.timers {
		timer.Stop()
	}
	clear(b.timers)
	b.mu.Unlock()
	if first {
		close(b.closing)
	}
	b.running.Wait()
	return nil
}
