package relay_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/relay"
)

// recorder is a broker that answers as a test wants it to.
type recorder struct {
	mu    sync.Mutex
	seen  []string // "topic/payload" of every message handed in, in order
	fate  func(payload string) error
	delay <-chan struct{} // confirmations wait for it
}

func (r *recorder) PublishAsync(_ context.Context, topics []string, msgs []*message.Message) func(context.Context) []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	errs := make([]error, len(msgs))
	for i, m := range msgs {
		r.seen = append(r.seen, topics[i]+"/"+string(m.Payload))
		if r.fate != nil {
			errs[i] = r.fate(string(m.Payload))
		}
	}
	return func(ctx context.Context) []error {
		if r.delay != nil {
			select {
			case <-r.delay:
			case <-ctx.Done():
				return slices.Repeat([]error{ctx.Err()}, len(msgs))
			}
		}
		return errs
	}
}

func (r *recorder) Publish(string, ...*message.Message) error {
	return errors.New("the relay must use PublishAsync")
}

func (r *recorder) Close() error { return nil }

func (r *recorder) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.seen)
}

type refusal struct{ permanent bool }

func (r refusal) Error() string   { return "refused" }
func (r refusal) Permanent() bool { return r.permanent }

type master struct {
	*sql.DB
	dialect relay.Dialect
}

func onEach(t *testing.T, test func(t *testing.T, m master)) {
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		db, _ := testdb.Postgres(t)
		test(t, migrated(t, db, relay.Postgres))
	})
	t.Run("mysql", func(t *testing.T) {
		t.Parallel()
		db, _ := testdb.MariaDB(t)
		test(t, migrated(t, db, relay.MySQL))
	})
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		db, _ := testdb.SQLite(t)
		test(t, migrated(t, db, relay.SQLite))
	})
}

// columns are the outbox's as any program may insert them. key is a word of MySQL's.
func columns(text string, d relay.Dialect) string {
	return strings.ReplaceAll(text, "key", d.QuoteColumn("key"))
}

func migrated(t *testing.T, db *sql.DB, d relay.Dialect) master {
	t.Helper()
	if _, err := migrations.Up(t.Context(), db, d); err != nil {
		t.Fatal(err)
	}
	return master{db, d}
}

// put inserts messages as any program may: payloads "a1", "a2", "b1", … with the
// letter as key.
func (m master) put(t *testing.T, payloads ...string) {
	t.Helper()
	for _, p := range payloads {
		m.putIn(t, m.DB, p)
	}
}

type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

func (m master) putIn(t *testing.T, db execer, payload string) {
	t.Helper()
	insert := columns(`INSERT INTO outbox (topic, key, payload) VALUES ('account', `, m.dialect) + `$1, $2)`
	if m.dialect == relay.MySQL {
		insert = strings.NewReplacer("$1", "?", "$2", "?").Replace(insert)
	}
	if _, err := db.ExecContext(t.Context(), insert, payload[:1], []byte(payload)); err != nil {
		t.Fatal(err)
	}
}

// start runs a relay until the returned function is called or the test ends.
func (m master) start(t *testing.T, pub message.Publisher, cfg relay.Config) (r *relay.Relay, stop func()) {
	t.Helper()
	r, err := relay.New(m.DB, pub, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return r, stop
}

func (m master) count(t *testing.T, table string) (n int) {
	t.Helper()
	if err := m.QueryRowContext(context.WithoutCancel(t.Context()), `SELECT count(*) FROM `+table).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// patience bounds what must happen. It is far longer than it takes, for machines
// that are busy with other things.
const patience = time.Minute

// eventually waits until the condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func (m master) drained(t *testing.T) {
	t.Helper()
	eventually(t, "the outbox is empty", func() bool { return m.count(t, "outbox") == 0 })
}

func wantSeen(t *testing.T, r *recorder, want ...string) {
	t.Helper()
	for i := range want {
		want[i] = "account/" + want[i]
	}
	if diff := cmp.Diff(want, r.all()); diff != "" {
		t.Errorf("messages on the wire (-want +have):\n%s", diff)
	}
}

func TestForwardsInOrderAndDeletes(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.put(t, "a1", "a2", "b1")
		pub := &recorder{}
		r, stop := m.start(t, pub, relay.Config{})
		m.drained(t)
		m.put(t, "a3", "b2")
		m.drained(t)
		stop()
		wantSeen(t, pub, "a1", "a2", "b1", "a3", "b2")
		if s := r.Stats(); s.Published != 5 || s.LastConfirmed.IsZero() || s.Term != 0 {
			t.Errorf("stats after the end: %+v, want 5 published and no term", s)
		}
		var free bool
		if err := m.QueryRowContext(t.Context(), `SELECT expires_at <= `+map[relay.Dialect]string{
			relay.Postgres: "clock_timestamp()", relay.MySQL: "utc_timestamp(6)", relay.SQLite: "strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')",
		}[m.dialect]+` FROM outbox_leases`).Scan(&free); err != nil || !free {
			t.Errorf("lease released: %v, %v", free, err)
		}
	})
}

// A relay that is stopped while a batch is unconfirmed must keep exactly the
// unconfirmed rows.
func TestDeletesOnlyWhatWasConfirmed(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		away := errors.New("connection lost")
		pub := &recorder{fate: func(p string) error {
			if p == "b1" || p == "d1" {
				return away
			}
			return nil
		}}
		m.put(t, "a1", "b1", "c1", "d1", "e1")
		_, stop := m.start(t, pub, relay.Config{})
		eventually(t, "the confirmed rows are gone", func() bool { return m.count(t, "outbox") <= 2 })
		stop()
		var left []string
		rows, err := m.QueryContext(t.Context(), `SELECT payload FROM outbox ORDER BY id`)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var p []byte
			if err := rows.Scan(&p); err != nil {
				t.Fatal(err)
			}
			left = append(left, string(p))
		}
		if diff := cmp.Diff([]string{"b1", "d1"}, left); diff != "" || rows.Err() != nil {
			t.Errorf("left in the outbox (-want +have):\n%s%v", diff, rows.Err())
		}
		if n := m.count(t, "outbox_failures") + m.count(t, "outbox_dead"); n != 0 {
			t.Errorf("an outage spent %d attempts", n)
		}
	})
}

func TestRefusedKeyWaitsOthersDoNot(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		var mu sync.Mutex
		refuse := true
		pub := &recorder{fate: func(p string) error {
			mu.Lock()
			defer mu.Unlock()
			if p == "a1" && refuse {
				return refusal{}
			}
			return nil
		}}
		m.put(t, "a1", "b1")
		_, stop := m.start(t, pub, relay.Config{})
		eventually(t, "the failure is noted", func() bool { return m.count(t, "outbox_failures") == 1 })
		m.put(t, "a2", "b2", "a3", "b3")
		eventually(t, "only a is left", func() bool { return m.count(t, "outbox") == 3 })
		stop() // a new owner must remember what is failing
		_, stop = m.start(t, pub, relay.Config{})
		m.put(t, "a4", "b4")
		eventually(t, "only a is left", func() bool { return m.count(t, "outbox") == 4 })
		mu.Lock()
		refuse = false
		mu.Unlock()
		m.drained(t)
		eventually(t, "the failure is forgotten", func() bool { return m.count(t, "outbox_failures") == 0 })
		stop()
		var a []string
		for _, s := range pub.all() {
			if strings.Contains(s, "/a") && (len(a) == 0 || a[len(a)-1] != s) {
				a = append(a, s)
			}
		}
		if diff := cmp.Diff([]string{"account/a1", "account/a2", "account/a3", "account/a4"}, a); diff != "" {
			t.Errorf("key a on the wire, repeats left out (-want +have):\n%s", diff)
		}
	})
}

func TestHopelessMessagesDie(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		pub := &recorder{fate: func(p string) error {
			switch p {
			case "a1":
				return refusal{permanent: true}
			case "b1":
				return refusal{}
			}
			return nil
		}}
		m.put(t, "a1", "a2", "b1", "b2")
		r, stop := m.start(t, pub, relay.Config{MaxAttempts: 2})
		m.drained(t)
		stop()
		var dead []string
		rows, err := m.QueryContext(t.Context(), `SELECT payload, error, attempts FROM outbox_dead ORDER BY id`)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var payload, text string
			var attempts int
			if err := rows.Scan(&payload, &text, &attempts); err != nil {
				t.Fatal(err)
			}
			dead = append(dead, fmt.Sprintf("%s %s %d", payload, text, attempts))
		}
		if diff := cmp.Diff([]string{"a1 refused 1", "b1 refused 2"}, dead); diff != "" || rows.Err() != nil {
			t.Errorf("dead (-want +have):\n%s%v", diff, rows.Err())
		}
		if s := r.Stats(); s.Published != 2 || s.Dead != 2 || m.count(t, "outbox_failures") != 0 {
			t.Errorf("stats %+v and %d failures, want 2 published, 2 dead, none failing", s, m.count(t, "outbox_failures"))
		}
	})
}

func TestOutageIsSatOut(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		var mu sync.Mutex
		away := errors.New("connection lost")
		pub := &recorder{fate: func(string) error { mu.Lock(); defer mu.Unlock(); return away }}
		m.put(t, "a1", "a2", "b1")
		_, stop := m.start(t, pub, relay.Config{MaxAttempts: 1})
		eventually(t, "several tries", func() bool { return len(pub.all()) >= 9 })
		mu.Lock()
		away = nil
		mu.Unlock()
		m.drained(t)
		stop()
		if n := m.count(t, "outbox_failures") + m.count(t, "outbox_dead"); n != 0 {
			t.Errorf("an outage spent %d attempts", n)
		}
		seen := pub.all()
		if diff := cmp.Diff([]string{"account/a1", "account/a2", "account/b1"}, seen[len(seen)-3:]); diff != "" {
			t.Errorf("the last three on the wire (-want +have):\n%s", diff)
		}
	})
}

// Ids commit out of order: a row that appears below the reading position must
// be sent, at once and not only when every older transaction has ended.
func TestRowsThatCommitLate(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		if m.dialect != relay.SQLite { // which has one writer at a time
			rowsThatCommitLate(t, m)
		}
	})
}

func rowsThatCommitLate(t *testing.T, m master) {
	begin := func() *sql.Tx {
		tx, err := m.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = tx.Rollback() })
		return tx
	}
	oldest, late, rolledBack := begin(), begin(), begin()
	m.putIn(t, oldest, "o1") // stays open throughout
	m.putIn(t, late, "l1")
	m.putIn(t, rolledBack, "r1")
	m.put(t, "a1")
	pub := &recorder{}
	m.start(t, pub, relay.Config{})
	eventually(t, "a1 is sent", func() bool { return len(pub.all()) == 1 })
	m.putIn(t, late, "l2")
	m.put(t, "a2")
	eventually(t, "a2 is sent", func() bool { return len(pub.all()) == 2 })
	if err := rolledBack.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := late.Commit(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "l1 and l2 are sent", func() bool { return len(pub.all()) == 4 })
	timer := time.NewTimer(1500 * time.Millisecond) // beyond the grace of a gap
	defer timer.Stop()
	<-timer.C
	m.put(t, "a3")
	if err := oldest.Commit(); err != nil {
		t.Fatal(err)
	}
	m.drained(t)
	have := pub.all()
	slices.Sort(have)
	if diff := cmp.Diff([]string{"account/a1", "account/a2", "account/a3", "account/l1", "account/l2", "account/o1"}, have); diff != "" {
		t.Errorf("sent (-want +have):\n%s", diff)
	}
}

// Many writers at once: everything arrives, each key in its order.
func TestConcurrentWriters(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		const writers, each = 8, 60
		pub := &recorder{}
		_, stop := m.start(t, pub, relay.Config{BatchSize: 7})
		var group sync.WaitGroup
		for w := range writers {
			group.Go(func() {
				for i := range each {
					tx, err := m.BeginTx(t.Context(), nil)
					if err != nil {
						t.Error(err)
						return
					}
					m.putIn(t, tx, fmt.Sprintf("%c%03d", 'a'+w, i))
					end := tx.Commit
					if i%5 == 4 {
						end = tx.Rollback
					}
					if err := end(); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		group.Wait()
		m.drained(t)
		stop()
		last, sent := map[byte]string{}, 0
		for _, s := range pub.all() {
			p := strings.TrimPrefix(s, "account/")
			if p <= last[p[0]] {
				t.Errorf("%s after %s", p, last[p[0]])
			}
			last[p[0]] = p
			sent++
		}
		if want := writers * each * 4 / 5; sent != want {
			t.Errorf("%d messages sent, want %d", sent, want)
		}
	})
}

func TestOneRelayWorksTheOtherTakesOver(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		first, second := &recorder{}, &recorder{}
		one, stopOne := m.start(t, first, relay.Config{LeaseTTL: time.Second})
		eventually(t, "the first holds the lease", func() bool { return one.Stats().Term == 1 })
		two, stopTwo := m.start(t, second, relay.Config{LeaseTTL: time.Second})
		m.put(t, "a1", "a2")
		m.drained(t)
		stopOne()
		eventually(t, "the second holds the lease", func() bool { return two.Stats().Term == 2 })
		m.put(t, "a3")
		m.drained(t)
		// Another relay takes the lease by force: the owner must stop by itself.
		if _, err := m.ExecContext(t.Context(), `UPDATE outbox_leases SET holder = 'other', term = 99`); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the second stands by", func() bool { return two.Stats().Term == 0 })
		stopTwo()
		wantSeen(t, first, "a1", "a2")
		wantSeen(t, second, "a3")
	})
}

func TestDrainWaitsForConfirmations(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		release := make(chan struct{})
		pub := &recorder{delay: release}
		m.put(t, "a1")
		_, stop := m.start(t, pub, relay.Config{})
		eventually(t, "a1 is handed over", func() bool { return len(pub.all()) == 1 })
		time.AfterFunc(300*time.Millisecond, func() { close(release) })
		stop()
		if n := m.count(t, "outbox"); n != 0 {
			t.Errorf("%d rows left after a drain", n)
		}
	})
}

func TestDrainTimeout(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.put(t, "a1")
		pub := &recorder{delay: make(chan struct{})}
		r, err := relay.New(m.DB, pub, relay.Config{DrainTimeout: 100 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		eventually(t, "a1 is handed over", func() bool { return len(pub.all()) == 1 })
		cancel()
		var drain *relay.DrainError
		if err := <-ended; !errors.As(err, &drain) {
			t.Errorf("Run: %v, want a DrainError", err)
		}
		if n := m.count(t, "outbox"); n != 1 {
			t.Errorf("%d rows in the outbox, want the unconfirmed one", n)
		}
	})
}

func TestMessageIDsAreStable(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.put(t, "a1")
		if _, err := m.ExecContext(t.Context(), columns(`INSERT INTO outbox (topic, key, payload, metadata)`, m.dialect)+
			` VALUES ('account', 'b', 'b1', '{"lockstep-event-id": "given", "n": 5, "none": null}')`); err != nil {
			t.Fatal(err)
		}
		var seen []*message.Message
		var mu sync.Mutex
		tries := 0
		pub := &idRecorder{publish: func(msgs []*message.Message) error {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, msgs...)
			if tries++; tries == 1 {
				return errors.New("connection lost")
			}
			return nil
		}}
		_, stop := m.start(t, pub, relay.Config{})
		m.drained(t)
		stop()
		if len(seen) != 4 || seen[0].UUID != seen[2].UUID || len(seen[0].UUID) != 36 || seen[1].UUID != "given" {
			t.Fatalf("ids of the messages sent: %v", seen)
		}
		want := message.Metadata{event.HeaderEventID: "given", "n": "5", event.HeaderOutboxID: "2"}
		if diff := cmp.Diff(want, seen[1].Metadata); diff != "" {
			t.Errorf("metadata (-want +have):\n%s", diff)
		}
	})
}

type idRecorder struct {
	recorder
	publish func(msgs []*message.Message) error
}

func (r *idRecorder) PublishAsync(_ context.Context, _ []string, msgs []*message.Message) func(context.Context) []error {
	err := r.publish(msgs)
	return func(context.Context) []error { return slices.Repeat([]error{err}, len(msgs)) }
}

func TestBatchBytesBoundAFetch(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		large := "b" + strings.Repeat("x", 5000)
		m.put(t, "a1", large, "c1", "d1")
		largest := 0
		pub := &idRecorder{publish: func(msgs []*message.Message) error { largest = max(largest, len(msgs)); return nil }}
		_, stop := m.start(t, pub, relay.Config{BatchBytes: 1000})
		m.drained(t)
		stop()
		if largest != 2 {
			t.Errorf("largest batch has %d messages, want 2: a batch ends when it has passed its bytes", largest)
		}
	})
}

func TestStockPublisher(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		pub := &stock{refuse: map[string]bool{"a1": true}}
		for i := range 50 {
			m.put(t, fmt.Sprintf("%c%02d", 'b'+i%5, i))
		}
		m.put(t, "a1", "a2")
		r, stop := m.start(t, pub, relay.Config{MaxAttempts: 2})
		others := 50
		eventually(t, "a1 is dead", func() bool {
			m.put(t, fmt.Sprintf("z%05d", others)) // shows that the broker is there
			others++
			return m.count(t, "outbox_dead") == 1
		})
		m.drained(t)
		stop()
		if s := r.Stats(); int(s.Published) != others+1 || s.Dead != 1 {
			t.Errorf("stats %+v, want %d published and a1 dead", s, others+1)
		}
		// A group with a culprit in it is published again one by one, so what
		// counts is each message's last time.
		slices.Reverse(pub.published)
		seen, next := map[string]bool{}, map[byte]string{}
		for _, p := range pub.published {
			if !seen[p] && next[p[0]] != "" && p > next[p[0]] {
				t.Errorf("%s after %s", next[p[0]], p)
			}
			if !seen[p] {
				seen[p], next[p[0]] = true, p
			}
		}
	})
}

// stock is a Watermill publisher that knows neither pipelining nor refusals.
type stock struct {
	mu        sync.Mutex
	refuse    map[string]bool
	published []string
}

func (s *stock) Publish(_ string, msgs ...*message.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range msgs {
		if s.refuse[string(m.Payload)] {
			return errors.New("some error")
		}
		s.published = append(s.published, string(m.Payload))
	}
	return nil
}

func (s *stock) Close() error { return nil }

func TestNotMigrated(t *testing.T) {
	t.Parallel()
	db, _ := testdb.SQLite(t)
	r, err := relay.New(db, &recorder{}, relay.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{"Check": r.Check(t.Context()), "Run": r.Run(t.Context())} {
		if !errors.Is(err, relay.ErrNotMigrated) || !strings.Contains(err.Error(), "relay migrate up") {
			t.Errorf("%s: %v, want ErrNotMigrated with its remedy", what, err)
		}
	}
}

func TestConfigFaultsComeTogether(t *testing.T) {
	t.Parallel()
	db, _ := testdb.SQLite(t)
	db.SetMaxOpenConns(1)
	_, err := relay.New(db, nil, relay.Config{Dialect: "oracle", BatchSize: -1, LeaseTTL: time.Millisecond, UnroutableDirect: "ignore"})
	for _, part := range []string{"publisher is nil", `Dialect is "oracle"`, "BatchSize", "LeaseTTL", `UnroutableDirect is "ignore"`, "1 connections"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not mention %q", err, part)
		}
	}
}

func TestWritersWakeASleepingRelay(t *testing.T) {
	t.Parallel()
	db, dsn := testdb.Postgres(t)
	m := migrated(t, db, relay.Postgres)
	pub := &recorder{}
	m.start(t, pub, relay.Config{Poll: time.Hour, Wake: relay.Listen(t.Context(), dsn, nil)})
	asleep := func() (asleep bool) {
		_ = m.QueryRowContext(t.Context(), `SELECT asleep FROM outbox_leases`).Scan(&asleep)
		return asleep
	}
	for i := range 2 {
		eventually(t, "the relay sleeps", asleep)
		m.put(t, fmt.Sprintf("a%d", i))
		m.drained(t)
	}
	eventually(t, "a relay that works does not ask writers to notify", func() bool { return !asleep() })
}
