package consumer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/event"
)

// running is a consumer that runs against a testBroker.
type running struct {
	*Consumer
	broker *testBroker
	cancel context.CancelFunc
	done   chan error
}

// start runs the consumer of a rig on a broker.
func (r *rig) start(t *testing.T, broker Broker, inner *testBroker) *running {
	t.Helper()
	c := r.Consumer
	c.broker = broker
	ctx, cancel := context.WithCancel(t.Context())
	run := &running{Consumer: c, broker: inner, cancel: cancel, done: make(chan error, 1)}
	go func() { run.done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-run.done: //nolint:errcheck // the test itself has looked at the error
		case <-time.After(enough):
			t.Error("Run did not return")
		}
	})
	return run
}

// runAccounts runs a consumer of account_ref.
func runAccounts(t *testing.T, d Dialect, table Table) (*rig, *running) {
	t.Helper()
	table.Name, table.Columns = "account_ref", accountColumns
	r := newRig(t, d, map[string]Table{"account": table}, accountTable)
	r.cfg.Now = time.Now
	broker := newTestBroker()
	return r, r.start(t, broker, broker)
}

// stop ends the run and returns what Run returned.
func (run *running) stop(t *testing.T) error {
	t.Helper()
	run.cancel()
	select {
	case err := <-run.done:
		run.done <- nil // for the cleanup
		return err
	case <-time.After(enough):
		t.Fatal("Run did not return")
		return nil
	}
}

// enough bounds what must happen. It is far longer than it takes, for machines
// that are busy with other things.
const enough = time.Minute

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(enough)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", enough, what)
		}
		<-tick.C
	}
}

func (run *running) awaitAcked(t *testing.T, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d messages acknowledged", n), func() bool { acked, _ := run.broker.counts(); return acked == n })
}

func (r *rig) titles(t *testing.T) []string {
	t.Helper()
	return dump(t, r.db, "SELECT id, title FROM account_ref")
}

func TestRunAppliesAndDrains(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		r, run := runAccounts(t, d, Table{})
		messages := []*message.Message{save(1, 1, "one"), save(2, 1, "two"), save(1, 2, "uno"), save(2, 2, "due"), remove(2, 3), save(3, 1, "three"), save(3, 1, "three")}
		run.broker.deliver(messages...)
		run.awaitAcked(t, len(messages))
		if err := run.stop(t); err != nil {
			t.Errorf("Run: %v", err)
		}
		if diff := cmp.Diff([]string{"id=1 title=uno", "id=3 title=three"}, r.titles(t)); diff != "" {
			t.Errorf("rows (-want +have):\n%s", diff)
		}
		s := r.Stats()
		if sum := s.Applied + s.Duplicate + s.Stale + s.Superseded; s.Received != 7 || sum != 7 || s.Dead+s.Retried+s.Gaps != 0 || s.Batches == 0 || s.Lag <= 0 {
			t.Errorf("have %+v, want 7 received and settled", s)
		}
		want := map[string][]string{
			"replica":             {"account", "cqrs.replica.account"},
			"dead_letter_replica": {"cqrs.dead_letter_replica.unknown", "cqrs.dead_letter_replica.account"},
		}
		if diff := cmp.Diff(want, run.broker.bound); diff != "" {
			t.Errorf("bindings (-want +have):\n%s", diff)
		}
	})
}

// TestDeadLetters: what cannot be understood becomes a dead letter once, byte
// for byte, with the reason, and is acknowledged only then.
func TestDeadLetters(t *testing.T) {
	t.Parallel()
	expired := strings.Replace(string(save(1, 1, "x").Payload), `"expires":null`, `"expires":"2020-01-01T00:00:00+00:00"`, 1)
	tests := []struct{ name, body, reason, topic string }{
		{"empty", "", "malformed", "unknown"},
		{"not JSON", "{", "malformed", "unknown"},
		{"not an object", "5", "malformed", "unknown"},
		{"not UTF-8", "{\"a\":\"\xff\"}", "malformed", "unknown"},
		{"incomplete", `{"signal_type":"SAVE","cqrs_id":"account","instance_pk":1}`, "incomplete", "unknown"},
		{"no such signal", envelope("save", "account", "{}"), "signal", "unknown"},
		{"no such entity", envelope("SAVE", "stranger", "{}"), "unknown", "unknown"},
		{"numeric entity", strings.Replace(envelope("SAVE", "x", "{}"), `"x"`, "7", 1), "incomplete", "unknown"},
		{"expired", expired, "expired", "account"},
	}
	_, run := runAccounts(t, SQLite, Table{})
	run.broker.setRefuse(func(string, *message.Message) error { return errBrokerAway })
	for _, tc := range tests {
		m := message.NewMessage("id of "+tc.name, []byte(tc.body))
		m.Metadata.Set("traceparent", "kept")
		run.broker.deliver(m)
	}
	eventually(t, "the consumer notices that the broker is away", func() bool { return run.Stats().Pauses == 1 })
	if acked, nacked := run.broker.counts(); acked+nacked > 0 {
		t.Errorf("%d acknowledged, %d given back before a copy was stored", acked, nacked)
	}
	run.broker.setRefuse(nil)
	run.awaitAcked(t, len(tests))
	for _, tc := range tests {
		letters := slices.DeleteFunc(run.broker.on("cqrs.dead_letter_replica."+tc.topic), func(m *message.Message) bool { return m.UUID != "id of "+tc.name })
		if len(letters) != 1 {
			t.Errorf("%s: have %d dead letters, want 1", tc.name, len(letters))
			continue
		}
		m := letters[0]
		if string(m.Payload) != tc.body {
			t.Errorf("%s: body %q became %q", tc.name, tc.body, m.Payload)
		}
		if m.Metadata.Get(event.HeaderReason) != tc.reason || m.Metadata.Get(event.HeaderError) == "" || m.Metadata.Get("traceparent") != "kept" ||
			m.Metadata.Get(event.MetadataTTL) != "864000000" {
			t.Errorf("%s: headers are %v, want reason %s", tc.name, m.Metadata, tc.reason)
		}
		if _, err := time.Parse(time.RFC3339, m.Metadata.Get(event.HeaderFailedAt)); err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	if s := run.Stats(); s.Dead != int64(len(tests)) || s.Applied != 0 {
		t.Errorf("have %+v, want %d dead", s, len(tests))
	}
}

// TestUnfitMessagesAreSetApart: the others are applied, the bad one is retried
// by a copy with one more retry, and in the end a dead letter.
func TestUnfitMessagesAreSetApart(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		tests := []struct {
			name    string
			table   Table
			retries int
			dead    bool
		}{
			{"first failure", Table{}, 0, false},
			{"thirtieth failure", Table{}, 29, false},
			{"last failure", Table{}, 30, true},
			{"limit passed", Table{MaxRetries: 3}, 7, true},
			{"no retries", Table{MaxRetries: NoRetries}, 0, true},
			{"for ever", Table{MaxRetries: RetryForever}, 1000, false},
		}
		for _, tc := range tests {
			tc.table.RetryDelay = 3 * time.Second
			r, run := runAccounts(t, d, tc.table)
			bad := lockstep(strings.NewReplacer(`"retries":0`, fmt.Sprintf(`"retries":%d`, tc.retries), `"meta":{}`, `"meta":{},"extra":[1]`).
				Replace(envelope("SAVE", "account", `{"id":5,"name":null,`+versionJSON(1, at(1))+`}`)))
			bad.UUID = "bad"
			run.broker.deliver(save(1, 1, "one"), bad, save(2, 1, "two"))
			run.awaitAcked(t, 3)
			if diff := cmp.Diff([]string{"id=1 title=one", "id=2 title=two"}, r.titles(t)); diff != "" {
				t.Errorf("%s: rows (-want +have):\n%s", tc.name, diff)
			}
			copies, letters := run.broker.on("cqrs.replica.account"), run.broker.on("cqrs.dead_letter_replica.account")
			if tc.dead {
				if len(copies) != 0 || len(letters) != 1 || string(letters[0].Payload) != string(bad.Payload) || letters[0].Metadata.Get(event.HeaderReason) != "retries" ||
					!strings.Contains(letters[0].Metadata.Get(event.HeaderError), "account/5: column title: value null") {
					t.Errorf("%s: have %d copies and dead letters %v", tc.name, len(copies), letters)
				}
				continue
			}
			want := strings.Replace(string(bad.Payload), fmt.Sprintf(`"retries":%d`, tc.retries), fmt.Sprintf(`"retries":%d`, tc.retries+1), 1)
			if len(letters) != 0 || len(copies) != 1 || string(copies[0].Payload) != want || copies[0].UUID != "bad" || !maps.Equal(copies[0].Metadata, bad.Metadata) {
				t.Errorf("%s: have %d dead letters and copies %v, want %s", tc.name, len(letters), copies, want)
			}
			if !slices.Equal(run.broker.delays, []time.Duration{3 * time.Second}) {
				t.Errorf("%s: delays are %v", tc.name, run.broker.delays)
			}
		}
	})
}

// plainBroker hides what Watermill's interfaces do not have.
type plainBroker struct {
	*testBroker
	topics []string
}

func (b *plainBroker) Bind()         {}
func (b *plainBroker) PublishAfter() {}

func (b *plainBroker) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	b.mu.Lock()
	b.topics = append(b.topics, topic)
	b.mu.Unlock()
	return b.testBroker.Subscribe(ctx, topic)
}

// TestAnyWatermillBroker: without bindings each topic is subscribed to; without
// delayed publishing a failed message is held for its delay, and no other is.
func TestAnyWatermillBroker(t *testing.T) {
	t.Parallel()
	const delay = 3 * time.Second // a halt of the machine is no wait for the bad one
	r := newRig(t, SQLite, map[string]Table{"account": {Name: "account_ref", Columns: accountColumns, RetryDelay: delay}}, accountTable)
	broker := &plainBroker{testBroker: newTestBroker()}
	run := r.start(t, broker, broker.testBroker)
	start := time.Now()
	run.broker.deliver(lockstep(envelope("SAVE", "account", "{}")), save(1, 1, "one"))
	run.awaitAcked(t, 1)
	if took := time.Since(start); took >= delay {
		t.Errorf("the good message waited %s for the bad one", took)
	}
	run.awaitAcked(t, 2)
	if took := time.Since(start); took < delay || len(run.broker.on("cqrs.replica.account")) != 1 {
		t.Errorf("have %d copies after %s, want 1 after %s", len(run.broker.on("cqrs.replica.account")), took, delay)
	}
	slices.Sort(broker.topics)
	if diff := cmp.Diff([]string{"account", "cqrs.replica.account"}, broker.topics); diff != "" {
		t.Errorf("topics (-want +have):\n%s", diff)
	}
}

// TestClosedBroker: Run says that the subscription ended.
func TestClosedBroker(t *testing.T) {
	t.Parallel()
	r, run := runAccounts(t, SQLite, Table{})
	run.broker.deliver(save(1, 1, "one"))
	run.awaitAcked(t, 1)
	if err := r.Run(t.Context()); !errors.Is(err, ErrRunning) {
		t.Errorf("second Run: have %v, want ErrRunning", err)
	}
	if err := r.Table("other", Table{Name: "other"}); !errors.Is(err, ErrRunning) {
		t.Errorf("Table: have %v, want ErrRunning", err)
	}
	if err := run.broker.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-run.done:
		if !errors.Is(err, ErrClosed) {
			t.Errorf("have %v, want ErrClosed", err)
		}
		run.done <- nil
	case <-time.After(enough):
		t.Fatal("Run did not return")
	}
}

// TestConsumersShareAQueue: several consumers of one queue, each with a connection of
// its own, end where the master is, although each sees only some of a key's events, in
// any order, and what one gives back may come to another.
func TestConsumersShareAQueue(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		const consumers = 3
		db := openDB(t, d, accountTable)
		for seed := range uint64(5) {
			h := newHistory(100 + seed)
			for key := range 8 {
				h.lockstepLike(key, 30)
			}
			messages := h.deliver(40)
			var runs []*running
			for range consumers {
				r := rigOn(t, db, map[string]Table{"account": {Name: "account_ref", Columns: accountColumns}})
				r.cfg.BatchSize, r.cfg.Now = 10, time.Now
				broker := newTestBroker()
				broker.requeue = true
				runs = append(runs, r.start(t, broker, broker))
			}
			random := rand.New(rand.NewPCG(seed, 0))
			for part := range slices.Chunk(messages, 5) {
				runs[random.IntN(consumers)].broker.deliver(part...)
			}
			eventually(t, "all acknowledged", func() bool {
				total := 0
				for _, run := range runs {
					acked, _ := run.broker.counts()
					total += acked
				}
				return total >= len(messages)
			})
			for i, run := range runs {
				if run.Stats().Received == 0 {
					t.Errorf("consumer %d got nothing", i)
				}
			}
			for _, run := range runs {
				if err := run.stop(t); err != nil {
					t.Error(err)
				}
			}
			want := slices.Sorted(maps.Values(h.rows))
			have := dump(t, db, "SELECT cqrs_revision, cqrs_updated, id, note, title FROM account_ref")
			if diff := cmp.Diff(want, have); diff != "" {
				for _, run := range runs {
					t.Logf("%+v", run.Stats())
				}
				t.Fatalf("seed %d: the replica is not the master (-master +replica):\n%s", seed, diff)
			}
			mustExec(t, db, "DELETE FROM account_ref")
			mustExec(t, db, "DELETE FROM replica_tombstones")
		}
	})
}
