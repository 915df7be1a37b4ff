package relay_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/relay"
)

// typoBroker has no queue that a message to a queue "typo" could go to, until made says so.
type typoBroker struct {
	recorder

	madeMu sync.Mutex
	made   bool
}

type unroutable struct{ refusal }

func (unroutable) Unroutable() bool { return true }

func (b *typoBroker) PublishAsync(ctx context.Context, topics []string, msgs []*message.Message) func(context.Context) []error {
	wait := b.recorder.PublishAsync(ctx, topics, msgs)
	b.madeMu.Lock()
	defer b.madeMu.Unlock()
	made := b.made
	return func(ctx context.Context) []error {
		errs := wait(ctx)
		for i, topic := range topics {
			if topic == event.DirectTopic("typo", "account") && !made {
				errs[i] = unroutable{}
			}
		}
		return errs
	}
}

func (b *typoBroker) make() {
	b.madeMu.Lock()
	defer b.madeMu.Unlock()
	b.made = true
}

func (m master) putOn(t *testing.T, topic, payload, metadata string) {
	t.Helper()
	insert := columns(`INSERT INTO outbox (topic, key, payload, metadata) VALUES `, m.dialect)
	insert += fmt.Sprintf("('%s', '%s', '%s', '%s')", topic, payload[:1], payload, metadata)
	if _, err := m.ExecContext(t.Context(), insert); err != nil {
		t.Fatal(err)
	}
}

// A SYNC to a queue that is not there holds up nobody's events: they arrive, in
// order, also after a restart; the relay is healthy; and nothing is lost.
func TestSyncToMissingQueueHoldsUpNoEvents(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		direct := func(payload string) {
			m.putOn(t, event.DirectTopic("typo", "account"), payload, `{"lockstep-event-id": "x", "lockstep-queue": "typo"}`)
		}
		b := &typoBroker{}
		cfg := relay.Config{Look: 10 * time.Millisecond, MaxAttempts: 1000}
		for _, key := range tenKeys {
			direct(string(key) + "-sync")
			m.put(t, string(key)+"0", string(key)+"1")
		}
		_, stop := m.start(t, b, cfg)
		eventually(t, "the events behind are gone", func() bool { return m.count(t, "outbox") == len(tenKeys) })
		stop()
		for _, key := range tenKeys {
			m.put(t, string(key)+"2")
			direct(string(key) + "-again")
		}
		r, _ := m.start(t, b, cfg)
		eventually(t, "the newer ones, too", func() bool { return m.count(t, "outbox") == 2*len(tenKeys) })
		eventually(t, "the relay knows that nothing is to be sent", func() bool {
			s := r.Stats()
			return s.Outbox.Waiting == int64(2*len(tenKeys)) && s.Outbox.Pending == s.Outbox.Waiting && s.Blocked == int64(len(tenKeys))
		})
		at := time.Now().Add(time.Minute)
		s := r.Stats()
		s.Outbox.At = at
		if err := s.Stalled(at, time.Second); err != nil {
			t.Errorf("unhealthy: %v", err)
		}
		b.make()
		failing, err := m.admin(t).Failures(t.Context(), 0, 100)
		if err != nil || len(failing) != len(tenKeys) {
			t.Fatalf("%d messages are failing, %v; want %d", len(failing), err, len(tenKeys))
		}
		for _, f := range failing {
			if _, err := m.admin(t).RetryFailures(t.Context(), f.ID); err != nil {
				t.Fatal(err)
			}
		}
		m.drained(t)
		have := map[string][]string{}
		for _, one := range b.all() {
			if payload, broadcast := strings.CutPrefix(one, "account/"); broadcast {
				have[payload[:1]] = append(have[payload[:1]], payload[1:])
			}
		}
		for _, key := range tenKeys {
			if want := []string{"0", "1", "2"}; !slices.Equal(want, have[string(key)]) {
				t.Errorf("events of key %c on the wire: %v, want %v", key, have[string(key)], want)
			}
		}
	})
}

// A relay that stands by says so once, and who has the lease; one that ends says
// that it drains and has drained.
func TestStandbyAndDrainAreLogged(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		var first, second syncBuffer
		config := func(log *syncBuffer) relay.Config {
			return relay.Config{Logger: slog.New(slog.NewTextHandler(log, nil))}
		}
		leader, stop := m.start(t, &recorder{}, config(&first))
		eventually(t, "one relay leads", func() bool { return leader.Stats().Leases == 1 })
		standby, stopStandby := m.start(t, &recorder{}, config(&second))
		eventually(t, "the other says that it stands by", func() bool {
			return strings.Contains(second.String(), "standing by, the lease is held by ")
		})
		stop()
		eventually(t, "it takes over", func() bool { return standby.Stats().Leases == 1 })
		if n := strings.Count(second.String(), "standing by"); n != 1 {
			t.Errorf("it said %d times that it stands by, want once:\n%s", n, second.String())
		}
		stopStandby()
		for _, log := range []string{first.String(), second.String()} {
			draining, drained := strings.Index(log, "msg=draining"), strings.Index(log, `msg="drained 0"`)
			if draining < 0 || drained < draining {
				t.Errorf("the log lacks draining or drained:\n%s", log)
			}
		}
	})
}
