package integration_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"

	"github.com/lockstep-go/lockstep/broker"
	"github.com/lockstep-go/lockstep/event"
)

// tap collects all messages of a queue in their order.
type tap struct {
	broker broker.Broker
	end    string // a topic of its own, for marks

	mu       sync.Mutex
	messages []*message.Message
	places   []uint64 // of the messages in the stream, where the broker tells
	marks    map[string]bool
}

// newTap binds the queue to the topics and collects until the test ends.
func newTap(t *testing.T, b broker.Broker, queue string, topics ...string) *tap {
	t.Helper()
	p := bindTap(t, b, queue, topics)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	messages, err := b.Subscribe(ctx, queue)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for m := range messages {
			p.take(m, 0)
			m.Ack()
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return p
}

func bindTap(t *testing.T, b broker.Broker, queue string, topics []string) *tap {
	t.Helper()
	p := &tap{broker: b, end: event.DirectTopic(queue, "end"), marks: map[string]bool{}}
	if err := b.Bind(t.Context(), queue, append(topics, p.end)...); err != nil {
		t.Fatal(err)
	}
	return p
}

const markHeader = "it-mark"

// take collects a message; place is the number that the broker gave it, or 0.
func (p *tap) take(m *message.Message, place uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if mark := m.Metadata.Get(markHeader); mark != "" {
		p.marks[mark] = true
		return
	}
	at := len(p.places)
	if place > 0 { // what is delivered late has its place all the same
		known := false
		if at, known = slices.BinarySearch(p.places, place); known {
			return
		}
	}
	p.places = slices.Insert(p.places, at, place)
	p.messages = slices.Insert(p.messages, at, m)
}

// count returns how many messages have come so far.
func (p *tap) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.messages)
}

// all returns what was confirmed to its publisher before the call.
func (p *tap) all(t *testing.T) []*message.Message {
	t.Helper()
	mark := uuid.NewString()
	m := message.NewMessage(mark, nil)
	m.Metadata.Set(markHeader, mark)
	if err := p.broker.Publish(p.end, m); err != nil {
		t.Fatal(err)
	}
	until(t, "the tap's mark comes through", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.marks[mark]
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.messages)
}

// wired is a message as it was seen.
type wired struct {
	msg      *message.Message
	ev       event.Event
	key      string
	revision int64
}

// row names what the event is about, and version its revision too.
func (w wired) row() string     { return w.ev.CQRSID + "/" + w.key }
func (w wired) version() string { return versionOf(w.row(), w.revision) }

func versionOf(row string, revision int64) string {
	return fmt.Sprintf("%s revision %d", row, revision)
}

// events decodes what the tap has.
func (p *tap) events(t *testing.T) []wired {
	t.Helper()
	var events []wired
	for _, m := range p.all(t) {
		events = append(events, decode(t, m))
	}
	return events
}

func decode(t *testing.T, m *message.Message) wired {
	t.Helper()
	ev, err := event.Decode(m.Payload)
	if err != nil {
		t.Fatalf("%v in %s", err, m.Payload)
	}
	v, err := ev.Version()
	if err != nil {
		t.Fatalf("%v in %s", err, m.Payload)
	}
	key, _ := event.Text(ev.Key)
	return wired{m, ev, key, v.Revision}
}
