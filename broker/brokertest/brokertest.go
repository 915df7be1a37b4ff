// Package brokertest is the suite that every broker adapter passes. It knows
// nothing of any adapter, and users who write their own can run it too:
//
//	func TestContract(t *testing.T) {
//		brokertest.Run(t, func(t *testing.T) brokertest.Adapter {
//			b, err := rabbitmq.Open(t.Context(), url, rabbitmq.Config{})
//			…
//			return b
//		})
//	}
//
// Beside it an adapter should run Watermill's own suite,
// github.com/ThreeDotsLabs/watermill/pubsub/tests.
package brokertest

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
)

// Adapter is what a broker adapter implements; the adapters' documentation says
// what each method promises.
type Adapter interface {
	Publish(topic string, msgs ...*message.Message) error
	PublishAsync(ctx context.Context, topics []string, msgs []*message.Message) (wait func(ctx context.Context) []error)
	PublishAfter(ctx context.Context, delay time.Duration, topic string, msg *message.Message) error
	Bind(ctx context.Context, queue string, topics ...string) error
	DeleteQueue(ctx context.Context, queue string) error
	Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error)
	SubscribeInitialize(topic string) error
	Close() error
}

// Prefetch is the number of unacknowledged messages that an adapter hands on
// when its configuration does not say otherwise.
const Prefetch = 1001

// patience is how long the suite waits for what must happen.
const patience = time.Minute

// Run tests an adapter. open makes one with its default configuration; it is
// called once for each test, several tests run at once, and Run closes what it
// makes. The queues and topics that are used have names of their own, so the
// adapters may share a broker.
func Run(t *testing.T, open func(t *testing.T) Adapter) {
	tests := []struct {
		name string
		run  func(*testing.T, *fixture)
	}{
		{"OrderAcrossPipelinedCalls", testOrder},
		{"EachBoundQueueGetsACopy", testFanOut},
		{"DirectTopicReachesOneQueue", testDirect},
		{"BindKeepsEarlierBindings", testBindAdds},
		{"BindIsNotRetroactive", testBindLate},
		{"ConcurrentBinds", testConcurrentBinds},
		{"QueuesShareNothingButTopics", testQueueNames},
		{"RoundTrip", testRoundTrip},
		{"Expiry", testExpiry},
		{"MalformedIsPermanent", testMalformed},
		{"Unroutable", testUnroutable},
		{"DeleteQueue", testDeleteQueue},
		{"PublishAfter", testPublishAfter},
		{"PublishAfterKeepsMessage", testPublishAfterRoundTrip},
		{"NackRequeues", testNack},
		{"PrefetchWithoutAck", testPrefetch},
		{"SubscribersShareAQueue", testShare},
		{"ContextEndsSubscription", testContext},
		{"AckAfterContextEnds", testLateAck},
		{"CloseEndsSubscriptions", testClose},
		{"NothingAfterClose", testAfterClose},
		{"EmptyCalls", testEmpty},
		{"Browse", testBrowse},
		{"BrowseTakes", testBrowseTakes},
		{"Inspect", testInspect},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a := open(t)
			t.Cleanup(func() {
				if err := a.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
			test.run(t, &fixture{Adapter: a, t: t, suffix: watermill.NewShortUUID()})
		})
	}
}

// fixture is one test's adapter with what the tests have in common.
type fixture struct {
	Adapter
	t      *testing.T
	suffix string
}

// name makes a name that no other test has.
func (f *fixture) name(name string) string { return name + "-" + f.suffix }

func (f *fixture) bind(queue string, topics ...string) {
	f.t.Helper()
	if err := f.Bind(f.t.Context(), queue, topics...); err != nil {
		f.t.Fatalf("Bind(%q, %q): %v", queue, topics, err)
	}
}

func (f *fixture) subscribe(ctx context.Context, queue string) <-chan *message.Message {
	f.t.Helper()
	messages, err := f.Subscribe(ctx, queue)
	if err != nil {
		f.t.Fatalf("Subscribe(%q): %v", queue, err)
	}
	return messages
}

func (f *fixture) publish(topic string, msgs ...*message.Message) {
	f.t.Helper()
	if err := f.Publish(topic, msgs...); err != nil {
		f.t.Fatalf("Publish(%q): %v", topic, err)
	}
}

// next returns the next message.
func (f *fixture) next(messages <-chan *message.Message) *message.Message {
	f.t.Helper()
	select {
	case msg, ok := <-messages:
		if !ok {
			f.t.Fatal("the channel was closed, want a message")
		}
		return msg
	case <-time.After(patience):
		f.t.Fatal("no message came")
	}
	return nil
}

// take returns the bodies of the next n messages and acknowledges them.
func (f *fixture) take(messages <-chan *message.Message, n int) []string {
	f.t.Helper()
	bodies := make([]string, n)
	for i := range bodies {
		msg := f.next(messages)
		bodies[i] = string(msg.Payload)
		msg.Ack()
	}
	return bodies
}

// nothing demands that no message comes for a while.
func (f *fixture) nothing(messages <-chan *message.Message, while time.Duration) {
	f.t.Helper()
	select {
	case msg, ok := <-messages:
		if ok {
			f.t.Fatalf("message %q came, want none", msg.Payload)
		}
		f.t.Fatal("the channel was closed")
	case <-time.After(while):
	}
}

// ended demands that the channel is closed and returns how many messages came
// before.
func (f *fixture) ended(messages <-chan *message.Message) int {
	f.t.Helper()
	timeout := time.After(patience)
	for n := 0; ; n++ {
		select {
		case _, ok := <-messages:
			if !ok {
				return n
			}
		case <-timeout:
			f.t.Fatal("the channel was not closed")
		}
	}
}

func (f *fixture) equal(what string, want, have any) {
	f.t.Helper()
	if diff := cmp.Diff(want, have); diff != "" {
		f.t.Errorf("%s (-want +have):\n%s", what, diff)
	}
}

// newMessage returns a message with a UUID of its own.
func newMessage(body string) *message.Message {
	return message.NewMessage(watermill.NewUUID(), []byte(body))
}

// numbered returns messages with the bodies 0, 1, … and the bodies.
func numbered(n int) ([]*message.Message, []string) {
	msgs, bodies := make([]*message.Message, n), make([]string, n)
	for i := range msgs {
		bodies[i] = strconv.Itoa(i)
		msgs[i] = newMessage(bodies[i])
	}
	return msgs, bodies
}

// class names an error as the relay would.
func class(err error) string {
	var refused interface {
		error
		Permanent() bool
	}
	var unroutable interface {
		error
		Unroutable() bool
	}
	switch {
	case err == nil:
		return "confirmed"
	case errors.As(err, &unroutable) && unroutable.Unroutable():
		if errors.As(err, &refused) && !refused.Permanent() {
			return "unroutable"
		}
		return "unroutable without Permanent() == false"
	case errors.As(err, &refused) && refused.Permanent():
		return "permanent"
	case errors.As(err, &refused):
		return "refused"
	}
	return "outage"
}

// classes names the outcomes of a call of n messages.
func classes(errs []error, n int) []string {
	if errs == nil {
		return slices.Repeat([]string{"confirmed"}, n)
	}
	names := make([]string, len(errs))
	for i, err := range errs {
		names[i] = class(err)
	}
	return names
}
