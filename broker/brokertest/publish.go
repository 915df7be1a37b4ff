package brokertest

import (
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/event"
)

// testOrder: calls that are not waited for reach the queue in their order,
// whatever the topics.
func testOrder(t *testing.T, f *fixture) {
	const calls, size = 5, 200
	queue, account, author := f.name("billing"), f.name("account"), f.name("author")
	cycle := []string{account, event.DirectTopic(queue, account), author}
	f.bind(queue, cycle...)
	msgs, want := numbered(calls * size)
	topics := make([]string, len(msgs))
	for i := range topics {
		topics[i] = cycle[i%len(cycle)]
	}
	var waits []func() []error
	for i := 0; i < len(msgs); i += size {
		wait := f.PublishAsync(t.Context(), topics[i:i+size], msgs[i:i+size])
		waits = append(waits, func() []error { return wait(t.Context()) })
	}
	for i, wait := range waits {
		if errs := wait(); errs != nil {
			t.Fatalf("call %d: %v", i, errs)
		}
	}
	f.equal("order", want, f.take(f.subscribe(t.Context(), queue), len(msgs)))
}

// testFanOut: one message on a topic goes to every queue that is bound to it.
func testFanOut(t *testing.T, f *fixture) {
	one, two, topic := f.name("one"), f.name("two"), f.name("account")
	f.bind(one, topic)
	f.bind(two, topic)
	msgs, want := numbered(10)
	f.publish(topic, msgs...)
	for _, queue := range []string{one, two} {
		messages := f.subscribe(t.Context(), queue)
		f.equal(queue, want, f.take(messages, len(msgs)))
		f.nothing(messages, 100*time.Millisecond)
	}
}

// testDirect: a direct topic reaches its queue and no other.
func testDirect(t *testing.T, f *fixture) {
	one, two, entity := f.name("one"), f.name("two"), f.name("account")
	f.bind(one, event.QueueTopics(one, entity)...)
	f.bind(two, event.QueueTopics(two, entity)...)
	f.publish(event.DirectTopic(one, entity), newMessage("for one"))
	f.publish(event.Topic(entity), newMessage("for all"))
	f.equal("one", []string{"for one", "for all"}, f.take(f.subscribe(t.Context(), one), 2))
	f.equal("two", []string{"for all"}, f.take(f.subscribe(t.Context(), two), 1))
}

// testBindAdds: a second Bind keeps what the first one bound, and what was
// published before it is not delivered twice.
func testBindAdds(t *testing.T, f *fixture) {
	queue, account, author := f.name("billing"), f.name("account"), f.name("author")
	f.bind(queue, account)
	f.publish(account, newMessage("1"))
	f.bind(queue, author)
	f.bind(queue, author, account)
	f.bind(queue)
	f.publish(author, newMessage("2"))
	f.publish(account, newMessage("3"))
	messages := f.subscribe(t.Context(), queue)
	f.equal("bodies", []string{"1", "2", "3"}, f.take(messages, 3))
	f.nothing(messages, 100*time.Millisecond)
}

// testBindLate: a new queue gets what is published after it was bound, not
// what other queues still hold.
func testBindLate(t *testing.T, f *fixture) {
	early, late, topic := f.name("early"), f.name("late"), f.name("account")
	f.bind(early, topic)
	f.publish(topic, newMessage("before"))
	f.bind(late, topic)
	f.publish(topic, newMessage("after"))
	for queue, want := range map[string][]string{early: {"before", "after"}, late: {"after"}} {
		messages := f.subscribe(t.Context(), queue)
		f.equal(queue, want, f.take(messages, len(want)))
		f.nothing(messages, 100*time.Millisecond)
	}
}

// testConcurrentBinds: bindings of one queue that are made at once all hold.
func testConcurrentBinds(t *testing.T, f *fixture) {
	const n = 8
	queue := f.name("billing")
	topics := make([]string, n)
	var binding sync.WaitGroup
	for i := range topics {
		topics[i] = f.name(strconv.Itoa(i))
		binding.Go(func() {
			if err := f.Bind(t.Context(), queue, topics[i]); err != nil {
				t.Errorf("Bind: %v", err)
			}
		})
	}
	binding.Wait()
	for _, topic := range topics {
		f.publish(topic, newMessage(topic))
	}
	f.equal("bodies", topics, f.take(f.subscribe(t.Context(), queue), n))
}

// testQueueNames: names that a broker may have to encode stay apart.
func testQueueNames(t *testing.T, f *fixture) {
	names := []string{"a.b", "a_b", "a-b", "a=2Eb", "a/b", "a%2Eb", "A.B", "ä.b", "a..b", ".a", strings.Repeat("x", 100)}
	for i, name := range names {
		names[i] = name + f.suffix
		f.bind(names[i], names[i])
	}
	for _, name := range names {
		f.publish(name, newMessage(name))
	}
	for _, name := range names {
		messages := f.subscribe(t.Context(), name)
		f.equal(name, []string{name}, f.take(messages, 1))
		f.nothing(messages, 10*time.Millisecond)
	}
}

// testRoundTrip: UUID, body and metadata arrive as they were.
func testRoundTrip(t *testing.T, f *fixture) {
	queue := f.name("billing")
	f.bind(queue, queue)
	messages := f.subscribe(t.Context(), queue)
	for _, want := range oddMessages() {
		f.publish(queue, want.Copy())
		have := f.next(messages)
		have.Ack()
		f.same(want, have)
	}
}

func (f *fixture) same(want, have *message.Message) {
	f.t.Helper()
	f.equal("UUID", want.UUID, have.UUID)
	f.equal("body", string(want.Payload), string(have.Payload))
	f.equal("metadata", want.Metadata, have.Metadata)
}

func oddMessages() []*message.Message {
	plain := newMessage(`{"signal_type":"SAVE"}`)
	plain.Metadata.Set(event.HeaderEventID, plain.UUID)
	plain.Metadata.Set(event.HeaderOutboxID, "42")
	odd := newMessage("\x00\xff\r\n body")
	odd.Metadata = message.Metadata{
		"empty":        "",
		"Mixed-Case":   "x",
		"mixed-case":   "y",
		"lines":        "panic: no\r\n\tat line 2\n",
		"spaces":       "  both ends  ",
		"unicode":      "Grüße, 世界",
		"colon":        "a: b: c",
		"spaced key":   "v",
		"key:colon":    "v",
		"ключ":         "v",
		"Nats-Msg-Id":  "1",
		"Nats-TTL":     "1s",
		"nats-rollup":  "all",
		"Status":       "503",
		"Content-Type": "text/plain",
	}
	empty := message.NewMessage("not a UUID", nil)
	return []*message.Message{plain, odd, empty}
}

// testExpiry: event.MetadataTTL takes a message out of the queue when its time
// is over, and is not handed on as metadata.
func testExpiry(t *testing.T, f *fixture) {
	queue := f.name("billing")
	f.bind(queue, queue)
	short, long := newMessage("short"), newMessage("long")
	short.Metadata.Set(event.MetadataTTL, "1000")
	long.Metadata.Set(event.MetadataTTL, "864000000")
	long.Metadata.Set("kept", "yes")
	f.publish(queue, short, long)
	<-time.After(3 * time.Second)
	messages := f.subscribe(t.Context(), queue)
	msg := f.next(messages)
	msg.Ack()
	f.equal("body", "long", string(msg.Payload))
	f.equal("metadata", message.Metadata{"kept": "yes"}, msg.Metadata)
	f.nothing(messages, 100*time.Millisecond)
}

// testMalformed: what can never be sent is refused for good, alone.
func testMalformed(t *testing.T, f *fixture) {
	queue := f.name("billing")
	f.bind(queue, queue)
	msgs, _ := numbered(4)
	msgs[1].Metadata.Set(event.MetadataTTL, "soon")
	msgs[2].Metadata.Set(event.MetadataTTL, "-1")
	errs := f.PublishAsync(t.Context(), []string{queue, queue, queue, queue}, msgs)(t.Context())
	f.equal("outcomes", []string{"confirmed", "permanent", "permanent", "confirmed"}, classes(errs, 4))
	f.equal("bodies", []string{"0", "3"}, f.take(f.subscribe(t.Context(), queue), 2))
}

// testUnroutable: a message that no queue is bound for is told apart, the
// others of its call are not concerned, and Bind mends it.
func testUnroutable(t *testing.T, f *fixture) {
	queue, bound, unbound := f.name("billing"), f.name("account"), f.name("author")
	f.bind(queue, bound)
	msgs, _ := numbered(3)
	errs := f.PublishAsync(t.Context(), []string{bound, unbound, bound}, msgs)(t.Context())
	f.equal("outcomes", []string{"confirmed", "unroutable", "confirmed"}, classes(errs, 3))
	f.equal("Publish", "confirmed", class(f.Publish(unbound, newMessage("x"))))
	direct := event.DirectTopic(unbound, "account")
	f.equal("Publish to a single queue", "unroutable", class(f.Publish(direct, newMessage("x"))))
	f.bind(queue, unbound)
	f.equal("Publish after Bind", "confirmed", class(f.Publish(unbound, newMessage("3"))))
	f.equal("bodies", []string{"0", "2", "3"}, f.take(f.subscribe(t.Context(), queue), 3))
}

// testDeleteQueue: the queue goes with what is in it; the topic has no queue then.
func testDeleteQueue(t *testing.T, f *fixture) {
	queue, topic := f.name("billing"), f.name("account")
	f.bind(queue, topic)
	f.publish(topic, newMessage("gone"))
	for range 2 { // the second time there is nothing to delete
		if err := f.DeleteQueue(t.Context(), queue); err != nil {
			t.Fatalf("DeleteQueue: %v", err)
		}
	}
	f.bind(queue, topic)
	f.publish(topic, newMessage("new"))
	f.equal("bodies", []string{"new"}, f.take(f.subscribe(t.Context(), queue), 1))
}

// testPublishAfter: delayed messages come when their time has come, in the
// order of their times, and only to the queue of the topic.
func testPublishAfter(t *testing.T, f *fixture) {
	one, two, entity := f.name("one"), f.name("two"), f.name("account")
	f.bind(one, event.QueueTopics(one, entity)...)
	f.bind(two, event.QueueTopics(two, entity)...)
	messages, others := f.subscribe(t.Context(), one), f.subscribe(t.Context(), two)
	start := time.Now()
	for _, delay := range []time.Duration{5 * time.Second, 0, time.Second} { // a busy broker takes its time over each
		if err := f.PublishAfter(t.Context(), delay, event.DirectTopic(one, entity), newMessage(delay.String())); err != nil {
			t.Fatalf("PublishAfter(%v): %v", delay, err)
		}
	}
	for _, delay := range []time.Duration{0, time.Second, 5 * time.Second} {
		f.equal("body", []string{delay.String()}, f.take(messages, 1))
		if after := time.Since(start); after < delay {
			t.Errorf("message delayed by %v came after %v", delay, after)
		}
	}
	f.nothing(others, 10*time.Millisecond)
}

// testPublishAfterRoundTrip: the delay changes nothing about the message.
func testPublishAfterRoundTrip(t *testing.T, f *fixture) {
	queue := f.name("billing")
	f.bind(queue, queue)
	messages := f.subscribe(t.Context(), queue)
	want := map[string]*message.Message{}
	for _, msg := range oddMessages() {
		want[msg.UUID] = msg
		if err := f.PublishAfter(t.Context(), 100*time.Millisecond, queue, msg.Copy()); err != nil {
			t.Fatalf("PublishAfter: %v", err)
		}
	}
	for range len(want) {
		have := f.next(messages)
		have.Ack()
		if want[have.UUID] == nil {
			t.Fatalf("message %q came twice or is unknown", have.UUID)
		}
		f.same(want[have.UUID], have)
		delete(want, have.UUID)
	}
}

// testEmpty: calls without messages are confirmed.
func testEmpty(t *testing.T, f *fixture) {
	if err := f.Publish(f.name("account")); err != nil {
		t.Errorf("Publish without messages: %v", err)
	}
	if errs := f.PublishAsync(t.Context(), nil, nil)(t.Context()); errs != nil {
		t.Errorf("PublishAsync without messages: %v", errs)
	}
}
