package outbox

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"

	"github.com/lockstep-go/lockstep/event"
)

// ErrMessage reports a message that [Tx.Publish] cannot take: its topic, UUID or
// metadata would be refused by the database or by a broker.
var ErrMessage = errors.New("not a message that can be sent")

var _ message.Publisher = (*Tx)(nil)

// Publish puts messages into the outbox, to be relayed to the topic when the
// transaction has committed. With it a Tx is Watermill's message.Publisher, so
// that Watermill's CQRS event bus, or anything else that publishes, can be used
// inside a transaction.
//
// Publish does no I/O. The messages are copied and inserted at the flush: in the
// order of the calls, behind the events of entities that were marked before and
// in front of those marked first after. A savepoint that is rolled back takes
// them back.
//
// A message keeps its payload, of any bytes, and its metadata. Its UUID becomes
// the event's id (header lockstep-event-id), and the receiver's message has it
// again; without one it gets a UUIDv7. The metadata member [event.MetadataKey] is the
// message's key. Messages of one topic and key are relayed in the order of their
// ids, which is that of their transactions' commits when these lock a row in
// common before the flush, such as by changing it. Messages without a key are
// one such sequence for each topic; if one of them is refused by the broker, the
// later ones wait for it.
//
// A message without the headers of a span (traceparent) gets those of the span that
// the flush is in.
//
// A payload may have Config.MaxPayload bytes. An error is an [ErrMessage], or
// [ErrFlushing] within a function of an [Entity], and nothing of the call is
// published. The messages' contexts are not used. Watermill asks for publishers
// that are safe for concurrent use; this one is a transaction and is not.
func (tx *Tx) Publish(topic string, msgs ...*message.Message) error {
	if err := tx.usable("publish on", topic); err != nil {
		return err
	}
	if err := event.ValidateTopic(topic); err != nil {
		return fmt.Errorf("outbox: publish: %w: %w", ErrMessage, err)
	}
	all := make([]outgoing, 0, len(msgs))
	for _, msg := range msgs {
		o, err := newOutgoing(topic, msg)
		if n := int64(len(o.payload)); err == nil && n > tx.ob.maxPayload {
			err = fmt.Errorf("the payload has %d bytes and at most %d are sent: raise Config.MaxPayload as far as the broker allows", n, tx.ob.maxPayload)
		}
		if err != nil {
			return fmt.Errorf("outbox: publish on %s: %w: %w", topic, ErrMessage, err)
		}
		all = append(all, o)
	}
	if len(all) == 0 {
		return nil
	}
	if n := len(tx.marks); n == 0 || tx.marks[n-1].entity != "" {
		tx.marks = append(tx.marks, &mark{})
	}
	last := tx.marks[len(tx.marks)-1]
	last.messages = append(last.messages, all...)
	return nil
}

// Close does nothing and returns nil: whoever began the transaction ends it. It
// is there because Watermill's publishers have it.
func (tx *Tx) Close() error { return nil }

func newOutgoing(topic string, msg *message.Message) (outgoing, error) {
	if msg == nil {
		return outgoing{}, errors.New("the message is nil")
	}
	id := msg.UUID
	if id == "" {
		made, err := uuid.NewV7()
		if err != nil {
			return outgoing{}, fmt.Errorf("make an event id: %w", err)
		}
		id = made.String()
	}
	if err := sendable("UUID", id, maxName); err != nil {
		return outgoing{}, err
	}
	metadata := append(event.AppendString([]byte("{"), event.HeaderEventID), ':')
	metadata = event.AppendString(metadata, id)
	for _, name := range slices.Sorted(maps.Keys(msg.Metadata)) {
		value := msg.Metadata[name]
		if err := errors.Join(sendable("metadata name", name, maxName), sendable("metadata "+name, value, maxValue)); err != nil {
			return outgoing{}, err
		}
		switch name {
		case event.MetadataKey, event.HeaderEventID, event.HeaderOutboxID: // the last two: of a message that was received
			continue
		}
		metadata = append(event.AppendString(append(metadata, ','), name), ':')
		metadata = event.AppendString(metadata, value)
	}
	_, traced := msg.Metadata[event.HeaderTraceParent]
	return outgoing{
		topic: topic, key: msg.Metadata[event.MetadataKey], metadata: string(append(metadata, '}')),
		payload: bytes.Clone(msg.Payload), traced: traced,
	}, nil
}

// What AMQP holds of a name, and what keeps a message's headers within a broker's
// limits.
const (
	maxName  = 255
	maxValue = 32 << 10
)

// sendable reports what would get lost, be changed or be refused on the way.
func sendable(what, text string, most int) error {
	switch {
	case len(text) > most:
		return fmt.Errorf("%s is longer than %d bytes", what, most)
	case !utf8.ValidString(text):
		return fmt.Errorf("%s is not UTF-8: %.40q", what, text)
	case strings.Contains(text, "\x00"):
		return fmt.Errorf("%s contains a NUL: %.40q", what, text)
	}
	return nil
}
