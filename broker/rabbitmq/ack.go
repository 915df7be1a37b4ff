package rabbitmq

import (
	"context"
	"slices"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/lockstep-go/lockstep/event"
)

// rescanEvery is how long an acknowledgement may wait behind an older message that has none. A
// goroutine for each message would see it at once, but costs more than all the rest of handing on,
// and sends most acknowledgements one by one.
const rescanEvery = 5 * time.Millisecond

// delivered is a message and the channel on which it is to be acknowledged.
type delivered struct {
	msg    *message.Message
	cancel context.CancelFunc // of the message's context
	ch     *amqp.Channel
	tag    uint64
}

func receive(ctx context.Context, ch *amqp.Channel, d amqp.Delivery) delivered {
	msg, _ := Marshaler{}.Unmarshal(d) // has no error
	if event.IsDirect(d.RoutingKey) {
		msg.Metadata[event.MetadataTopic] = d.RoutingKey
	}
	ctx, cancel := context.WithCancel(ctx)
	msg.SetContext(ctx)
	return delivered{msg: msg, cancel: cancel, ch: ch, tag: d.DeliveryTag}
}

func (d *delivered) drop() {
	if d.cancel != nil {
		d.cancel()
	}
	*d = delivered{}
}

// nack puts the message back into the queue. Like every acknowledgement it may fail, if the channel is
// gone; then the message is in the queue again anyway.
func (d *delivered) nack() { _ = d.ch.Nack(d.tag, false, true) }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// oldest returns the signals of the message that was handed on first and is not settled.
func (s *subscription) oldest() (acked, nacked <-chan struct{}) {
	if len(s.held) == 0 {
		return nil, nil
	}
	return s.held[0].msg.Acked(), s.held[0].msg.Nacked()
}

// acknowledge settles messages from the oldest on, up to the first that is open, or with all beyond it.
// What is acked without a gap takes one acknowledgement together. Messages of earlier channels are only
// forgotten: the server has put them back into the queue.
func (s *subscription) acknowledge(all bool) {
	var upTo uint64
	gap := false
	for i := range s.held {
		d := &s.held[i]
		current := d.ch == s.ch
		switch {
		case isClosed(d.msg.Nacked()):
			if current {
				d.nack() // before the acknowledgement of all up to a later one
			}
			d.drop()
		case !isClosed(d.msg.Acked()):
			gap = gap || current
			if !all {
				s.held = s.held[i:]
				s.ackUpTo(upTo)
				return
			}
		case current && gap:
			_ = s.ch.Ack(d.tag, false)
			d.drop()
		case current:
			upTo = d.tag
			d.drop()
		default:
			d.drop()
		}
	}
	s.ackUpTo(upTo)
	s.held = slices.DeleteFunc(s.held, func(d delivered) bool { return d.msg == nil })
}

func (s *subscription) ackUpTo(tag uint64) {
	if tag > 0 {
		_ = s.ch.Ack(tag, true)
	}
}
