package outboxtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/event"
)

// Delivery delivers events to a consumer, one by one and without a broker, and
// says what became of each.
//
//	c, err := consumer.New(db, outboxtest.NoBroker{}, consumer.Config{Queue: "billing"})
//	…
//	d := outboxtest.NewDelivery(t, c)
//	d.Require(consumer.Applied, outboxtest.Event{Entity: "author", Key: "1", Revision: 1, Data: map[string]any{"id": 1, "name": "Ada"}})
//	d.RequireOutcome(consumer.Outcome{Result: consumer.Applied, Gap: true}, outboxtest.Event{Entity: "author", Key: "1", Revision: 3, Data: …})
//
// The database is real, and so are guards, handlers and policies. Copies for
// retries and dead letters are not made: the outcome says that they would be.
//
// What is delivered is committed. So give each test a database or schema of its
// own; where handlers share one, a queue name of its own (Config.Queue) starts them
// clean, because what they have seen is noted by queue. Rows of tables and their
// tombstones stay: keys of a test's own keep out of their way.
type Delivery struct {
	tb testing.TB
	c  *consumer.Consumer
}

// NewDelivery checks the consumer against its database and fails the test when
// something is wrong. The consumer is closed at the end of the test.
func NewDelivery(tb testing.TB, c *consumer.Consumer) *Delivery {
	tb.Helper()
	if err := c.Check(tb.Context()); err != nil {
		tb.Fatalf("outboxtest: %v", err)
	}
	tb.Cleanup(func() {
		if err := c.Close(); err != nil {
			tb.Errorf("outboxtest: close the consumer: %v", err)
		}
	})
	return &Delivery{tb, c}
}

// deliverTimeout bounds one delivery: a consumer waits for a database that is
// away.
const deliverTimeout = 30 * time.Second

// Deliver delivers an event as a Lockstep master would send it. Signal is SAVE
// when it is empty. cqrs_revision is the event's Revision and cqrs_updated a time
// that grows with it, unless Data has them. A Payload is sent as it is, in place of
// all that. Topic is not used.
//
// A DELETE carries the key as id, and each of its columns under the name that the
// consumer has for it, see [consumer.Consumer.KeyFields]. For a handler that takes
// its key from the envelope, no names are known: give them in Data where the handler
// reads them. The key of several columns is the JSON array of their texts,
// ["eu","7"]. A text that is an integer is sent as one, unless Data says otherwise.
func (d *Delivery) Deliver(ev Event) consumer.Outcome {
	d.tb.Helper()
	msg, err := ev.message(d.c.KeyFields(ev.Entity))
	if err != nil {
		d.tb.Fatalf("outboxtest: %v", err)
	}
	return d.DeliverMessage(msg)
}

// DeliverMessage delivers a message as it is. Without the header
// [event.HeaderEventID] it is one of a django-cqrs master.
func (d *Delivery) DeliverMessage(msg *message.Message) consumer.Outcome {
	d.tb.Helper()
	ctx, cancel := context.WithTimeout(d.tb.Context(), deliverTimeout)
	defer cancel()
	o, err := d.c.Apply(ctx, msg)
	if err != nil {
		d.tb.Fatalf("outboxtest: deliver: %v", err)
	}
	return o
}

// Require delivers an event and fails the test at once unless the result is the
// wanted one.
func (d *Delivery) Require(want consumer.Result, ev Event) consumer.Outcome {
	d.tb.Helper()
	have := d.Deliver(ev)
	if have.Result != want {
		d.tb.Fatalf("outboxtest: %s %s/%s of revision %d is %s, want %s (reason %q, error %v)",
			ev.signal(), ev.Entity, ev.Key, ev.Revision, have.Result, want, have.Reason, have.Err)
	}
	return have
}

// RequireOutcome delivers an event and fails the test at once, with the difference,
// unless the outcome is as wanted. Result, Gap and Downgrade are compared as they
// are; a zero Delay, an empty Reason and a nil Err stand for anything. Err is found
// by errors.Is, and otherwise its text has to be in the text of the outcome's.
func (d *Delivery) RequireOutcome(want consumer.Outcome, ev Event) consumer.Outcome {
	d.tb.Helper()
	have := d.Deliver(ev)
	if diff := cmp.Diff(shownOutcome(want, want), shownOutcome(have, want)); diff != "" {
		d.tb.Fatalf("outboxtest: %s %s/%s of revision %d (-want +have):\n%s\nits error: %v", ev.signal(), ev.Entity, ev.Key, ev.Revision, diff, have.Err)
	}
	return have
}

// outcome is an outcome as a difference shows it.
type outcome struct {
	Result         consumer.Result
	Gap, Downgrade bool
	Delay          time.Duration
	Reason, Err    string
}

// shownOutcome leaves out of an outcome what is not wanted of it.
func shownOutcome(o, want consumer.Outcome) outcome {
	shown := outcome{Result: o.Result, Gap: o.Gap, Downgrade: o.Downgrade}
	if want.Delay != 0 {
		shown.Delay = o.Delay
	}
	if want.Reason != "" {
		shown.Reason = o.Reason
	}
	if want.Err != nil && o.Err != nil {
		if shown.Err = o.Err.Error(); errors.Is(o.Err, want.Err) || strings.Contains(shown.Err, want.Err.Error()) {
			shown.Err = want.Err.Error()
		}
	}
	return shown
}

func (ev *Event) signal() event.Signal {
	if ev.Signal == "" {
		return event.Save
	}
	return ev.Signal
}

// message makes what a relay would send of the event.
func (ev *Event) message(keyFields []string) (*message.Message, error) {
	body, err := ev.body(keyFields)
	if err != nil {
		return nil, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	msg := message.NewMessage(id.String(), body)
	msg.Metadata.Set(event.HeaderEventID, msg.UUID)
	maps.Copy(msg.Metadata, ev.Metadata)
	return msg, nil
}

func (ev *Event) body(keyFields []string) ([]byte, error) {
	if ev.Payload != nil {
		return ev.Payload, nil
	}
	key := keyOnWire(ev.Key)
	data := map[string]any{
		event.FieldRevision: ev.Revision,
		event.FieldUpdated:  time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(ev.Revision) * time.Minute),
	}
	if ev.signal() == event.Delete {
		data[event.FieldDeletedKey] = key
		columns := event.SplitKey(ev.Key)
		if len(keyFields) == 1 {
			columns = []string{ev.Key}
		}
		if len(keyFields) > 0 && len(columns) != len(keyFields) {
			return nil, fmt.Errorf("the key %q of %s has not the %d columns %v: write it as a JSON array of their texts", ev.Key, ev.Entity, len(keyFields), keyFields)
		}
		for i, field := range keyFields {
			data[field] = keyOnWire(columns[i])
		}
	}
	maps.Copy(data, ev.Data)
	e := event.Event{Signal: ev.signal(), CQRSID: ev.Entity, Key: key}
	var errs [4]error
	e.Data, errs[0] = onWire(data)
	e.Previous, errs[1] = onWire(ev.Previous)
	e.Meta, errs[2] = onWire(ev.Meta)
	e.CorrelationID, errs[3] = json.Marshal(ev.CorrelationID)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("encode the event of %s/%s: %w", ev.Entity, ev.Key, err)
	}
	return e.AppendJSON(nil), nil
}

// keyOnWire encodes a key, or one of its columns.
func keyOnWire(text string) json.RawMessage {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && strconv.FormatInt(n, 10) == text {
		return json.RawMessage(text)
	}
	return event.AppendString(nil, text)
}

// onWire encodes members as masters do, times above all.
func onWire(members map[string]any) (json.RawMessage, error) {
	if members == nil {
		return nil, nil
	}
	out := make(map[string]any, len(members))
	for name, value := range members {
		if t, ok := value.(time.Time); ok {
			value = event.FormatTime(t)
		}
		out[name] = value
	}
	return json.Marshal(out)
}

// NoBroker is a broker that takes and brings nothing, for a consumer that is
// only delivered to. A function of yours that makes a consumer can take its
// broker as a [consumer.Broker].
type NoBroker struct{}

var errNoBroker = errors.New("outboxtest: there is no broker")

// Publish returns an error.
func (NoBroker) Publish(string, ...*message.Message) error { return errNoBroker }

// Subscribe returns an error.
func (NoBroker) Subscribe(context.Context, string) (<-chan *message.Message, error) {
	return nil, errNoBroker
}

// Close does nothing.
func (NoBroker) Close() error { return nil }
