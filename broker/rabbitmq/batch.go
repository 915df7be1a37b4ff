package rabbitmq

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"
)

// maxShort is the length limit of names, keys and ids in AMQP.
const maxShort = 255

// delivery is one message on its way to the broker.
type delivery struct {
	batch           *batch
	index           int
	exchange, topic string
	publishing      amqp.Publishing

	returned bool // no queue is bound; its confirm will follow. Guarded by the session.
	settled  bool // guarded by the batch
}

// batch is what one call published. It is settled message by message, and by whoever knows first: the
// confirm, the loss of the channel, or the caller's own limit of time.
type batch struct {
	deliveries []delivery
	deadline   time.Time // of handing over; no message is sent later

	mu   sync.Mutex
	open int // deliveries that are not settled
	errs []error
	done chan struct{} // closed when open is 0
}

// newBatch marshals the messages. One that cannot be written in AMQP is refused on the spot.
func newBatch(exchange string, topics []string, msgs []*message.Message, timeout time.Duration) *batch {
	b := &batch{
		deliveries: make([]delivery, len(msgs)),
		deadline:   time.Now().Add(timeout),
		open:       len(msgs),
		done:       make(chan struct{}),
	}
	if len(msgs) == 0 {
		close(b.done)
	}
	for i, msg := range msgs {
		d := &b.deliveries[i]
		d.batch, d.index, d.exchange, d.topic = b, i, exchange, topics[i]
		var err error
		if d.publishing, err = (Marshaler{}).Marshal(msg); err != nil {
			d.settle(d.refused(err.Error()))
		} else if len(d.topic) > maxShort {
			d.settle(d.refused(fmt.Sprintf("the topic has %d bytes, at most %d are possible", len(d.topic), maxShort)))
		}
	}
	return b
}

// wanted returns the deliveries that nobody has settled yet.
func (b *batch) wanted() []*delivery {
	b.mu.Lock()
	defer b.mu.Unlock()
	wanted := make([]*delivery, 0, b.open)
	for i := range b.deliveries {
		if d := &b.deliveries[i]; !d.settled {
			wanted = append(wanted, d)
		}
	}
	return wanted
}

// fail settles all that is not settled yet.
func (b *batch) fail(err error) {
	for _, d := range b.wanted() {
		d.settle(err)
	}
}

// result waits for the batch. What is not settled when ctx ends is given up; so it is after the
// timeout, with the error that silent returns.
func (b *batch) result(ctx context.Context, timeout time.Duration, silent func() error) []error {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-b.done:
	case <-ctx.Done():
		b.fail(fmt.Errorf("rabbitmq: publish: not confirmed yet: %w", context.Cause(ctx)))
	case <-timer.C:
		b.fail(silent())
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.errs
}

// settle says how the delivery ended: confirmed if err is nil. Only the first call counts.
func (d *delivery) settle(err error) {
	b := d.batch
	b.mu.Lock()
	defer b.mu.Unlock()
	if d.settled {
		return
	}
	d.settled = true
	if err != nil {
		if b.errs == nil {
			b.errs = make([]error, len(b.deliveries))
		}
		b.errs[d.index] = err
	}
	if b.open--; b.open == 0 {
		close(b.done)
	}
}

// done reports whether the delivery is settled.
func (d *delivery) done() bool {
	d.batch.mu.Lock()
	defer d.batch.mu.Unlock()
	return d.settled
}

// refused is the end of a message that will be refused each time.
func (d *delivery) refused(reason string) *RefusedError {
	return &RefusedError{Topic: d.topic, UUID: d.publishing.MessageId, Reason: reason, permanent: true}
}

// tooWide says why the message's headers do not fit into one AMQP frame, or is empty if they do.
// RabbitMQ would close the connection, for all.
func (d *delivery) tooWide(frame int) string {
	const others = 1 << 10 // the other properties, and the frame's own bytes
	size := others
	for key, value := range d.publishing.Headers {
		text, _ := value.(string)
		size += len(key) + len(text) + 6
	}
	if frame > 0 && size > frame {
		return fmt.Sprintf("metadata of %d bytes exceed the connection's frame size of %d", size-others, frame)
	}
	return ""
}
