package cli_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/lockstep-go/lockstep/broker"
	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/testdb"
)

// box is a replica's queue with dead letters, on a broker that processes share.
type box struct {
	t             *testing.T
	url           string
	queue, entity string
}

// onBrokers runs a test on each kind of broker.
func onBrokers(t *testing.T, test func(t *testing.T, b box)) {
	t.Helper()
	for name, url := range map[string]func(t *testing.T) string{
		"rabbitmq":  func(t *testing.T) string { return testdb.RabbitMQURL(t) },
		"jetstream": func(t *testing.T) string { return "jetstream+embedded://" + t.TempDir() },
		"postgres":  postgresBroker,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := box{t, url(t), unique("billing"), unique("account")}
			b.with(func(open broker.Broker) {
				for _, queue := range []string{b.queue, event.DeadLetterQueue(b.queue)} {
					if err := open.Bind(t.Context(), queue, event.DirectTopic(queue, b.entity)); err != nil {
						t.Fatal(err)
					}
				}
			})
			t.Cleanup(func() {
				b.with(func(open broker.Broker) {
					for _, queue := range []string{b.queue, event.DeadLetterQueue(b.queue)} {
						_ = open.DeleteQueue(context.WithoutCancel(b.t.Context()), queue) // a test's own
					}
				})
			})
			test(t, b)
		})
	}
}

// with opens the broker for fn, at the end of the test, too; an embedded one is in one
// process at a time.
func (b box) with(fn func(open broker.Broker)) {
	b.t.Helper()
	open, err := broker.Open(context.WithoutCancel(b.t.Context()), b.url, broker.Options{})
	if err != nil && b.t.Context().Err() == nil {
		b.t.Fatal(err)
	}
	if err != nil {
		return // at the end of the test
	}
	defer func() { _ = open.Close() }()
	fn(open)
}

// body is an event as a letter has it, expired for an hour if it expires.
func (b box) body(key string, expires bool) string {
	when := "null"
	if expires {
		when = `"` + event.FormatExpires(time.Now().Add(-time.Hour)) + `"`
	}
	return fmt.Sprintf(`{"signal_type":"SAVE","cqrs_id":"%s","instance_data":{"id":%s,"cqrs_revision":3,"cqrs_updated":"%s"},`+
		`"previous_data":null,"instance_pk":%s,"correlation_id":null,"retries":30,"expires":%s,"meta":{}}`,
		b.entity, key, event.FormatTime(time.Now().Add(-3*time.Hour)), key, when)
}

func (b box) bury(msgs ...*message.Message) {
	b.t.Helper()
	b.with(func(open broker.Broker) {
		if err := open.Publish(event.DirectTopic(event.DeadLetterQueue(b.queue), b.entity), msgs...); err != nil {
			b.t.Fatal(err)
		}
	})
}

// letter is one of Lockstep's.
func (b box) letter(key, reason, why string, age time.Duration) *message.Message {
	msg := message.NewMessage(uuid.NewString(), []byte(b.body(key, true)))
	msg.Metadata = message.Metadata{
		event.HeaderReason: reason, event.HeaderError: why, "own": "kept",
		event.HeaderFailedAt: time.Now().Add(-age).UTC().Format(time.RFC3339),
	}
	return msg
}

// bare is one as django-cqrs leaves them.
func (b box) bare(body string) *message.Message { return message.NewMessage("", []byte(body)) }

// do runs a command on the letters.
func (b box) do(args ...string) outcome {
	return run(b.t, []string{"LOCKSTEP_BROKER_URL=" + b.url}, "", append(append([]string{"dead-letters"}, args...), "--queue", b.queue)...)
}

// keys lists the keys of the letters that are there.
func (b box) keys(args ...string) (keys []string) {
	b.t.Helper()
	o := b.do(append([]string{"list", "--json"}, args...)...)
	o.expect(b.t, 0)
	for line := range strings.Lines(o.out) {
		var one struct{ Key string }
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			b.t.Fatalf("%s: %v", line, err)
		}
		keys = append(keys, one.Key)
	}
	return keys
}

// retried returns what is in the replica's queue.
func (b box) retried() (found []*message.Message) {
	b.t.Helper()
	b.with(func(open broker.Broker) {
		err := open.(broker.Letterbox).Browse(b.t.Context(), b.queue, func(msg *message.Message) (bool, error) {
			found = append(found, msg)
			return true, nil
		})
		if err != nil {
			b.t.Fatal(err)
		}
	})
	return found
}

func TestDeadLettersOfAQueue(t *testing.T) {
	t.Parallel()
	onBrokers(t, func(t *testing.T, b box) {
		third := b.body("3", false)
		b.bury(b.letter("1", "data", "too long for name", 48*time.Hour), b.letter("2", "expired", "its time was over", time.Hour),
			b.bare(third), b.letter("4", "data", "too long for title", time.Minute), b.bare("no event"))
		for _, tt := range []struct {
			args []string
			want []string
		}{
			{nil, []string{"1", "2", "3", "4", ""}},
			{[]string{"--cqrs-id", b.entity, "--key", "3"}, []string{"3"}},
			{[]string{"--cqrs-id", "other"}, nil},
			{[]string{"--reason", "data"}, []string{"1", "4"}},
			{[]string{"--reason", "for title"}, []string{"4"}},
			{[]string{"--older-than", "30m"}, []string{"1", "2"}},
			{[]string{"--older-than", "30m", "--reason", "data"}, []string{"1"}},
		} {
			if diff := cmp.Diff(tt.want, b.keys(tt.args...)); diff != "" {
				t.Errorf("list %q (-want +have):\n%s", tt.args, diff)
			}
		}
		list := b.do("list", "--key", "2")
		if !strings.Contains(list.out, "/2  30 retries  expired: its time was over\n") {
			t.Errorf("list: %v", list)
		}
		id, _, _ := strings.Cut(list.out, " ")
		show := b.do("show", id)
		if !strings.Contains(show.out, `"reason":"expired","error":"its time was over"`) || !strings.Contains(show.out, `"payload":"{\"signal_type\"`) {
			t.Errorf("show: %v", show)
		}
		b.do("show", "nobody").expect(t, 1, "there is no dead letter nobody")
		b.do("dump", "--key", "3").wantOut(t, third+"\n")

		b.do("purge", "--reason", "expired").expect(t, 2, "--yes is missing: there is no terminal")
		b.do("purge", "--reason", "expired", "--yes").wantOut(t, "1 dead letter purged\n")
		if diff := cmp.Diff([]string{"1", "3", "4", ""}, b.keys()); diff != "" {
			t.Errorf("left after the purge (-want +have):\n%s", diff)
		}
	})
}

// A panic's stack is shown of one letter, and not in the list.
func TestListShowsNoStack(t *testing.T) {
	t.Parallel()
	onBrokers(t, func(t *testing.T, b box) {
		o := b.do("list")
		if o.code != 0 || o.out != "" || o.stderr != "no dead letters\n" {
			t.Errorf("list of none: %v", o)
		}
		const stack = " | goroutine 7 [running]: | main.charge(...) | " // as a consumer writes it
		b.bury(b.letter("1", "retries", "panic: no card"+stack, time.Hour))
		list := b.do("list")
		if !strings.HasSuffix(list.out, "  retries: panic: no card …\n") || strings.Count(list.out, "\n") != 1 || list.stderr != "" {
			t.Errorf("list: %v", list)
		}
		id, _, _ := strings.Cut(list.out, " ")
		for _, o := range []outcome{b.do("show", id), b.do("list", "--json")} {
			if !strings.Contains(o.out, "main.charge") {
				t.Errorf("the stack is not shown whole: %v", o)
			}
		}
	})
}

func TestRetryDeadLettersOfAQueue(t *testing.T) {
	t.Parallel()
	onBrokers(t, func(t *testing.T, b box) {
		later := b.letter("4", "data", "too long", time.Minute)
		later.Metadata[event.HeaderEventID] = uuid.Must(uuid.NewV7()).String() // made after its expiry: an odd clock
		b.bury(b.letter("1", "data", "too long", time.Minute), b.letter("2", "expired", "over", time.Hour), b.bare(b.body("3", false)), later, b.bare("no event"))
		b.do("retry", "--reason", "data", "--json").wantOut(t, `{"letters":2}`+"\n")
		o := b.do("retry", "--key", "3")
		o.wantOut(t, "1 dead letter put back\n")
		if diff := cmp.Diff([]string{"2", ""}, b.keys()); diff != "" {
			t.Errorf("left (-want +have):\n%s", diff)
		}
		found := b.retried()
		if len(found) != 3 {
			t.Fatalf("%d came, want 3", len(found))
		}
		for i, want := range []struct {
			key  string
			life time.Duration
		}{{"1", 2 * time.Hour}, {"4", event.DefaultLife}, {"3", 0}} {
			ev, err := event.Decode(found[i].Payload)
			if err != nil || string(ev.Key) != want.key || ev.Retries != 0 {
				t.Errorf("came %s, %v; want key %s with no retries", found[i].Payload, err, want.key)
			}
			if want.life == 0 != ev.Expires.IsZero() {
				t.Errorf("key %s expires %v, want a life of %v", want.key, ev.Expires, want.life)
			}
			if off := time.Until(ev.Expires) - want.life; want.life != 0 && (off > time.Minute || off < -time.Minute) {
				t.Errorf("key %s expires in %v, want %v", want.key, time.Until(ev.Expires), want.life)
			}
			for _, gone := range []string{event.HeaderReason, event.HeaderError, event.HeaderFailedAt} {
				if found[i].Metadata.Get(gone) != "" {
					t.Errorf("key %s still has %s", want.key, gone)
				}
			}
		}
		if found[0].Metadata.Get("own") != "kept" {
			t.Errorf("headers %v lack one of the sender's", found[0].Metadata)
		}
		o = b.do("retry")
		o.expect(t, 1, "1 dead letter stays where it is", "body is malformed")
		if diff := cmp.Diff([]string{""}, b.keys()); diff != "" {
			t.Errorf("left (-want +have):\n%s", diff)
		}
	})
}

// A letter whose queue does not take it stays, and the others go.
func TestRetryOfUnroutableLetter(t *testing.T) {
	t.Parallel()
	onBrokers(t, func(t *testing.T, b box) {
		b.bury(b.bare(strings.Replace(b.body("1", true), b.entity, "stranger", 1)), b.bare(b.body("2", true)))
		o := b.do("retry")
		o.expect(t, 1, "1 dead letter stays where it is", "stranger/1", "no queue is bound")
		if have := len(b.retried()); have != 1 {
			t.Errorf("%d came, want 1", have)
		}
		if diff := cmp.Diff([]string{"1"}, b.keys()); diff != "" {
			t.Errorf("left (-want +have):\n%s", diff)
		}
	})
}

// The entity's own life goes before the one that the letter had.
func TestRetryTakesTheEntitysTTL(t *testing.T) {
	t.Parallel()
	b := box{t, "jetstream+embedded://" + t.TempDir(), unique("billing"), "account"}
	config := writeFile(t, "lockstep.yaml", "entities:\n  account: {table: accounts, ttl: 5h}\nqueue: "+b.queue+"\n")
	b.with(func(open broker.Broker) {
		for _, queue := range []string{b.queue, event.DeadLetterQueue(b.queue)} {
			if err := open.Bind(t.Context(), queue, event.DirectTopic(queue, b.entity)); err != nil {
				t.Fatal(err)
			}
		}
	})
	b.bury(b.bare(b.body("1", true)))
	mustRelay(t, "dead-letters", "retry", "--broker-url", b.url, "--config", config)
	ev, err := event.Decode(b.retried()[0].Payload)
	if left := time.Until(ev.Expires); err != nil || left < 5*time.Hour-time.Minute || left > 5*time.Hour {
		t.Errorf("expires in %v, %v; want the entity's 5h", left, err)
	}
}

// Any number of letters ends, and none is lost by looking.
func TestManyDeadLettersOfAQueue(t *testing.T) {
	t.Parallel()
	onBrokers(t, func(t *testing.T, b box) {
		const n = 2600
		var msgs []*message.Message
		var want strings.Builder
		for i := range n {
			body := b.body(fmt.Sprint(i), false)
			msgs = append(msgs, b.bare(body))
			want.WriteString(body + "\n")
		}
		b.bury(msgs...)
		for range 2 {
			o := b.do("dump")
			if o.code != 0 || o.out != want.String() {
				t.Fatalf("dumped %d lines in code %d, want %d in their order: %s", strings.Count(o.out, "\n"), o.code, n, o.stderr)
			}
		}
		b.do("retry", "--quiet").wantOut(t, fmt.Sprintf("%d dead letters put back\n", n))
		if have := len(b.retried()); have != n {
			t.Errorf("%d came, want %d", have, n)
		}
	})
}

// A retry that dies leaves every letter in one queue or the other.
func TestRetryDies(t *testing.T) {
	t.Parallel()
	b := box{t, testdb.RabbitMQURL(t), unique("billing"), unique("account")}
	const n = 2000
	var msgs []*message.Message
	b.with(func(open broker.Broker) {
		for _, queue := range []string{b.queue, event.DeadLetterQueue(b.queue)} {
			if err := open.Bind(t.Context(), queue, event.DirectTopic(queue, b.entity)); err != nil {
				t.Fatal(err)
			}
		}
		for i := range n {
			msgs = append(msgs, b.bare(b.body(fmt.Sprint(i), true)))
		}
	})
	b.bury(msgs...)
	p := start(t, []string{"LOCKSTEP_BROKER_URL=" + b.url}, "dead-letters", "retry", "--queue", b.queue)
	b.with(func(open broker.Broker) {
		defer func() {
			for _, queue := range []string{b.queue, event.DeadLetterQueue(b.queue)} {
				_ = open.DeleteQueue(b.t.Context(), queue)
			}
		}()
		eventually(t, func() string {
			if some, _, err := open.(broker.Letterbox).Inspect(t.Context(), b.queue); err != nil || some < 50 {
				return fmt.Sprintf("%d came, %v", some, err)
			}
			return ""
		})
		p.signal(os.Kill)
		<-p.done
		seen := make(map[string]bool)
		gather := func() error {
			var faults []error
			for _, queue := range []string{b.queue, event.DeadLetterQueue(b.queue)} {
				faults = append(faults, open.(broker.Letterbox).Browse(t.Context(), queue, func(msg *message.Message) (bool, error) {
					ev, err := event.Decode(msg.Payload)
					seen[string(ev.Key)] = true
					return false, err
				}))
			}
			return errors.Join(faults...)
		}
		eventually(t, func() string { // the server notices the death a little later
			if err := gather(); err != nil || len(seen) != n {
				return fmt.Sprintf("%d of %d letters are in either queue, %v", len(seen), n, err)
			}
			return ""
		})
	})
}

func TestDeadLettersMisuse(t *testing.T) {
	t.Parallel()
	relay(t, "dead-letters", "list").expect(t, 2, "--broker-url is missing")
	relay(t, "dead-letters", "list", "--broker-url", noBroker).expect(t, 2, "--queue is missing", "--outbox")
	relay(t, "dead-letters", "list", "--broker-url", noBroker, "--queue", "a b").expect(t, 2, "--queue: ")
	relay(t, "dead-letters", "list", "--outbox", "--queue", "a").expect(t, 2, "--outbox and --queue", "--database-url is missing")
	relay(t, "dead-letters", "list", "--broker-url", noBroker, "--queue", "a", "--older-than", "-1s").expect(t, 2, "--older-than")
	relay(t, "dead-letters", "list", "--broker-url", noBroker, "--queue", "a").expect(t, 1, "--broker-url: ", "refused")
	relay(t, "dead-letters", "list", "--broker-url", testdb.RabbitMQURL(t), "--queue", unique("nobody")).expect(t, 1, "there is no queue", "no replica has consumed queue")
}
