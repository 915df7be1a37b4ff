// Package broker opens a message broker by its URL. What comes back is a
// Watermill publisher and subscriber, with the little more that Lockstep asks
// of a broker, whatever the broker is:
//
//	b, err := broker.Open(ctx, os.Getenv("LOCKSTEP_BROKER_URL"), broker.Options{Logger: log})
//	if err != nil { … }
//	defer b.Close()
//
// The adapters are packages of their own and can be opened directly, which
// spares a program the dependencies of the others and gives access to all of
// an adapter's configuration. Package brokertest is the suite they all pass.
package broker

import (
	"context"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Letterbox is what an adapter may have beside a [Broker]: a look into a queue without
// consuming it, for tools. The adapters of this module all have it.
type Letterbox interface {
	// Browse calls visit for each message that is in the queue when it begins, in
	// the queue's order. A message is taken out for good if visit returns true and
	// nil; the others are back in the queue, in their order, when Browse returns,
	// or when this process or its connection ends. Until then no consumer gets
	// them. An error of visit ends Browse, which returns it. Messages that somebody
	// else holds are not seen. What was taken out just before a lost connection may
	// come again.
	//
	// Any number of messages may be there: only the present one is in memory. A
	// queue that does not exist is an error with the method NoQueue() bool.
	Browse(ctx context.Context, queue string, visit func(msg *message.Message) (take bool, err error)) error

	// Inspect returns how many messages the queue holds and how many consumers it
	// has, as far as the broker tells: RabbitMQ does not count the messages in a
	// consumer's hands, JetStream does. It changes nothing. A queue that does not exist is
	// an error with the method NoQueue() bool.
	Inspect(ctx context.Context, queue string) (messages, consumers int, err error)
}

// Broker is what every adapter implements: an exchange, to which messages are
// published by topic, and durable queues, which are bound to topics and
// subscribed to. All methods may be called from any goroutine.
type Broker interface {
	// Publish sends the messages to one topic and returns when the broker has
	// confirmed all of them; otherwise it returns the errors of those it has
	// not, joined. A message on a broadcast topic that no queue is bound to is
	// let go; on a direct topic (see event.IsDirect) that is an error.
	Publish(topic string, msgs ...*message.Message) error

	// PublishAsync hands the messages over in their order, each with the topic
	// of the same index, and returns without waiting for confirmations. Calls
	// made one after the other reach the broker in that order. It blocks only
	// for flow control, and not longer than the adapter's ConfirmTimeout.
	//
	// wait must be called exactly once. It blocks until every message is
	// confirmed, refused or given up, bounded by its ctx and by
	// ConfirmTimeout, and returns nil if all were confirmed, else a slice with
	// one entry for each message, nil for those that were.
	//
	// An error that errors.As finds to have the method Permanent() bool speaks
	// of its message: the broker has refused it, for good if Permanent is
	// true. If it also has Unroutable() bool and that is true, no queue is
	// bound to the topic. Any other error is an outage and says nothing about
	// the message.
	PublishAsync(ctx context.Context, topics []string, msgs []*message.Message) (wait func(ctx context.Context) []error)

	// PublishAfter stores a message, confirmed, that the broker delivers on the
	// topic when the delay is over, even if this process has ended by then.
	PublishAfter(ctx context.Context, delay time.Duration, topic string, msg *message.Message) error

	// Bind declares the durable queue and binds it to the topics. Bindings are
	// only ever added. It may be repeated and is, by itself, on every new
	// connection.
	Bind(ctx context.Context, queue string, topics ...string) error

	// DeleteQueue deletes a queue with its bindings and what is in it. One that
	// does not exist is no error.
	DeleteQueue(ctx context.Context, queue string) error

	// Subscribe hands on the messages of the queue, whose name Watermill calls
	// the topic. A queue that was not bound before is declared and bound to the
	// topic of its own name. It hands on up to Prefetch messages (1001 unless
	// configured otherwise) in the order of the queue without waiting for
	// acknowledgements. Ack takes a message out of the queue, Nack puts it
	// back. A lost connection is mended. The channel is closed when ctx ends or
	// the Broker is closed.
	Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error)

	// SubscribeInitialize declares the queue as Subscribe would.
	SubscribeInitialize(topic string) error

	// Close ends the subscriptions, gives unacknowledged messages back and
	// closes the connection. It blocks until that is done. It may be repeated.
	Close() error
}
