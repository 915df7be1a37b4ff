package consumer_test

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/lockstep-go/lockstep/broker"
	"github.com/lockstep-go/lockstep/broker/jetstream"
	"github.com/lockstep-go/lockstep/broker/rabbitmq"
	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/migrations"
)

// durableBroker is a broker that keeps delayed messages and dead letters.
type durableBroker interface {
	consumer.Broker
	consumer.Binder
	consumer.DelayedPublisher
	broker.Letterbox
}

// eachDurable runs a test with RabbitMQ and with JetStream, and a queue name of its own.
func eachDurable(t *testing.T, test func(t *testing.T, b durableBroker, queue string)) {
	t.Helper()
	t.Run("rabbitmq", func(t *testing.T) {
		t.Parallel()
		queue, url := "retry."+strings.ToLower(rand.Text()), testdb.RabbitMQURL(t)
		b, err := rabbitmq.Open(t.Context(), url, rabbitmq.Config{Exchange: queue})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			for _, name := range []string{queue, event.DeadLetterQueue(queue), "bystander." + queue} {
				_ = b.DeleteQueue(ctx, name)
			}
			_ = b.Close()
			if conn, err := amqp.Dial(url); err == nil {
				defer func() { _ = conn.Close() }()
				if ch, err := conn.Channel(); err == nil {
					_ = ch.ExchangeDelete(queue, false, false)
				}
			}
		})
		test(t, b, queue)
	})
	t.Run("jetstream", func(t *testing.T) {
		t.Parallel()
		b, err := jetstream.Open(t.Context(), "jetstream+embedded://"+t.TempDir(), jetstream.Config{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = b.Close() })
		test(t, b, "retry")
	})
}

// failing is what handlers in this test fail with: each of its calls, by entity.
type failing struct {
	mu    sync.Mutex
	calls map[string][]time.Time
	tries map[string][]int // the numbers of the attempts as the handler was told
}

func (f *failing) note(entity string, attempt int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[entity] = append(f.calls[entity], time.Now())
	f.tries[entity] = append(f.tries[entity], attempt)
}

func (f *failing) count(entity string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.calls[entity])
}

var errOdd = errors.New("odd")

// policyCase is an entity whose every event fails, with its policy and what is to
// become of them.
type policyCase struct {
	options  consumer.HandlerOptions
	err      func(attempt int) error // nil: an error
	attempts int                     // in all; 0: without end
	pauses   []time.Duration         // at least, before the second attempt and those after it
	reason   string                  // of the dead letter
}

const shortDelay = 300 * time.Millisecond

func policyCases() map[string]policyCase {
	return map[string]policyCase{
		"none":    {options: consumer.HandlerOptions{MaxRetries: consumer.NoRetries}, attempts: 1, reason: "retries"},
		"twice":   {options: consumer.HandlerOptions{MaxRetries: 2, RetryDelay: shortDelay}, attempts: 3, pauses: []time.Duration{shortDelay, shortDelay}, reason: "retries"},
		"forever": {options: consumer.HandlerOptions{MaxRetries: consumer.RetryForever, RetryDelayFor: func(int, error) time.Duration { return 10 * time.Millisecond }}},
		"growing": {
			options:  consumer.HandlerOptions{MaxRetries: 2, RetryDelayFor: func(attempt int, _ error) time.Duration { return time.Duration(attempt) * shortDelay }},
			attempts: 3, pauses: []time.Duration{shortDelay, 2 * shortDelay}, reason: "retries",
		},
		"asked": {
			options:  consumer.HandlerOptions{RetryDelay: shortDelay, RetryIf: func(attempt int, err error) bool { return attempt < 3 && !errors.Is(err, errOdd) }},
			err:      func(attempt int) error { return map[bool]error{true: errOdd, false: errors.New("even")}[attempt == 2] },
			attempts: 2, pauses: []time.Duration{shortDelay}, reason: "retries",
		},
		"later": {
			options:  consumer.HandlerOptions{MaxRetries: 1, RetryDelay: time.Hour},
			err:      func(int) error { return consumer.RetryAfter(shortDelay, errOdd) },
			attempts: 2, pauses: []time.Duration{shortDelay}, reason: "retries",
		},
		"permanent": {err: func(int) error { return consumer.Permanent(errOdd) }, attempts: 1, reason: "permanent"},
		"expiring":  {options: consumer.HandlerOptions{MaxRetries: consumer.RetryForever, RetryDelay: shortDelay}, attempts: -1, reason: "expired"},
	}
}

// policyConsumer follows an entity for each of the policies.
func policyConsumer(t *testing.T, b consumer.Broker, queue string, f *failing, ttl time.Duration) *consumer.Consumer {
	t.Helper()
	db, _ := testdb.SQLite(t)
	if _, err := migrations.Up(t.Context(), db, consumer.SQLite); err != nil {
		t.Fatal(err)
	}
	return policyConsumerOn(t, db, b, queue, f, ttl)
}

func policyConsumerOn(t *testing.T, db *sql.DB, b consumer.Broker, queue string, f *failing, ttl time.Duration) *consumer.Consumer {
	t.Helper()
	c, err := consumer.New(db, b, consumer.Config{Queue: queue, DeadLetterTTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range policyCases() {
		err := consumer.Handle(c, name, func(_ context.Context, _ consumer.Tx, ev consumer.Event[writer]) error {
			f.note(ev.Entity, ev.Attempt)
			if tc.err != nil {
				return tc.err(ev.Attempt)
			}
			return errOdd
		}, tc.options)
		if err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// running runs a consumer until stop is called.
func runUntilStopped(t *testing.T, c *consumer.Consumer) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

// TestPoliciesOverBrokers: whatever the policy, a failing event is tried as often,
// and after the pauses, that it says; then it is in the dead-letter queue with the
// reason. Another queue that follows the same entities hears of none of that.
func TestPoliciesOverBrokers(t *testing.T) {
	t.Parallel()
	eachDurable(t, func(t *testing.T, b durableBroker, queue string) {
		f := &failing{calls: map[string][]time.Time{}, tries: map[string][]int{}}
		c := policyConsumer(t, b, queue, f, 0)
		cases, bystander := policyCases(), "bystander."+queue
		if err := c.Bind(t.Context()); err != nil {
			t.Fatal(err)
		}
		for name := range cases {
			if err := b.Bind(t.Context(), bystander, event.QueueTopics(bystander, name)...); err != nil {
				t.Fatal(err)
			}
		}
		for name := range cases {
			text := body("SAVE", name, 1, 1, "x")
			if name == "expiring" {
				text = strings.Replace(text, `"expires":null`, fmt.Sprintf(`"expires":%q`, time.Now().Add(12*time.Second).UTC().Format(time.RFC3339)), 1)
			}
			if err := b.Publish(name, message.NewMessage(watermill.NewUUID(), []byte(text))); err != nil {
				t.Fatal(err)
			}
		}
		stop := runUntilStopped(t, c)
		soon(t, "all but one are dead letters, and that one is tried again and again", func() bool {
			return c.Stats().Dead == int64(len(cases)-1) && f.count("forever") > 32
		})
		stop()
		for name, tc := range cases {
			f.requireTried(t, name, tc)
		}
		requireLetters(t, b, queue, cases)
		if n, _, err := b.Inspect(t.Context(), bystander); err != nil || n != len(cases) {
			t.Errorf("another queue has %d messages (%v), want the %d that were sent to all", n, err, len(cases))
		}
	})
}

// requireTried fails unless the attempts at an entity's event were as its case says.
func (f *failing) requireTried(t *testing.T, name string, tc policyCase) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	calls, tries := f.calls[name], f.tries[name]
	if tc.attempts > 0 && len(calls) != tc.attempts || tc.attempts < 0 && len(calls) < 3 {
		t.Errorf("%s: %d attempts, want %d", name, len(calls), tc.attempts)
	}
	if !slices.IsSorted(tries) || tries[0] != 1 || tries[len(tries)-1] != len(tries) {
		t.Errorf("%s: the attempts are numbered %v", name, tries)
	}
	for i, least := range tc.pauses {
		if i+1 < len(calls) && calls[i+1].Sub(calls[i]) < least {
			t.Errorf("%s: attempt %d came after %s, want %s at least", name, i+2, calls[i+1].Sub(calls[i]), least)
		}
	}
}

// requireLetters fails unless each case has its dead letter, with the reason, the
// error and the time in its headers.
func requireLetters(t *testing.T, b broker.Letterbox, queue string, cases map[string]policyCase) {
	t.Helper()
	found := map[string]string{}
	err := b.Browse(t.Context(), event.DeadLetterQueue(queue), func(msg *message.Message) (bool, error) {
		ev, err := event.Decode(msg.Payload)
		if err != nil {
			return false, err
		}
		found[ev.CQRSID] = msg.Metadata.Get(event.HeaderReason)
		_, timeErr := time.Parse(time.RFC3339, msg.Metadata.Get(event.HeaderFailedAt))
		if msg.Metadata.Get(event.HeaderError) == "" || timeErr != nil {
			t.Errorf("%s: headers %v", ev.CQRSID, msg.Metadata)
		}
		return false, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range cases {
		if found[name] != tc.reason {
			t.Errorf("%s: the dead letter's reason is %q, want %q", name, found[name], tc.reason)
		}
	}
}

// TestRetriesOutliveTheProcess: attempts go on, with their number and after their
// delay, in another consumer than the one that failed; and dead letters go when
// their time is over.
func TestRetriesOutliveTheProcess(t *testing.T) {
	t.Parallel()
	eachDurable(t, func(t *testing.T, b durableBroker, queue string) {
		f := &failing{calls: map[string][]time.Time{}, tries: map[string][]int{}}
		db, _ := testdb.SQLite(t)
		if _, err := migrations.Up(t.Context(), db, consumer.SQLite); err != nil {
			t.Fatal(err)
		}
		const ttl = 12 * time.Second // of the dead letter, which is looked for within it
		first := policyConsumerOn(t, db, b, queue, f, ttl)
		if err := first.Bind(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := b.Publish("twice", message.NewMessage(watermill.NewUUID(), []byte(body("SAVE", "twice", 1, 1, "x")))); err != nil {
			t.Fatal(err)
		}
		consumers := 0
		for dead := int64(0); dead == 0; consumers++ {
			c := policyConsumerOn(t, db, b, queue, f, ttl)
			stop := runUntilStopped(t, c)
			soon(t, "an attempt, and its copy at the broker", func() bool {
				s := c.Stats()
				return s.Retried+s.Dead >= 1
			})
			stop()
			dead = c.Stats().Dead
		}
		t.Logf("%d consumers made the attempts", consumers) // one each, unless the machine halts for a delay
		f.requireTried(t, "twice", policyCases()["twice"])
		if n, _, err := b.Inspect(t.Context(), event.DeadLetterQueue(queue)); err != nil || n != 1 {
			t.Errorf("%d dead letters (%v), want 1", n, err)
		}
		soon(t, "the dead letter's time is over", func() bool {
			n, _, err := b.Inspect(t.Context(), event.DeadLetterQueue(queue))
			return err == nil && n == 0
		})
	})
}
