package relay_test

import (
	"bytes"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/relay"
)

func (m master) admin(t *testing.T) *relay.Admin {
	t.Helper()
	a, err := relay.NewAdmin(m.DB, m.dialect)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// A refused message is listed with its error, goes at once when it is asked to,
// and lets its key go on when it is purged.
func TestFailuresListRetryPurge(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		var good atomic.Bool
		pub := &recorder{fate: func(p string) error {
			if strings.HasPrefix(p, "a1") && !good.Load() || p == "b1" {
				return refusal{}
			}
			return nil
		}}
		m.put(t, "a1", "a2", "b1", "b2")
		m.start(t, pub, relay.Config{})
		admin := m.admin(t)
		var list []relay.Failure
		eventually(t, "several refusals of both", func() bool {
			var err error
			if list, err = admin.Failures(t.Context(), 0, 10); err != nil {
				t.Fatal(err)
			}
			return len(list) == 2 && list[0].Attempts > 2 && list[1].Attempts > 2
		})
		if f := list[0]; f.Topic != "account" || f.Key != "a" || !strings.Contains(f.Error, "refused") ||
			time.Until(f.RetryAt) > time.Minute || time.Until(f.RetryAt) < -time.Minute ||
			time.Since(f.Created) > time.Minute || time.Since(f.Created) < -time.Minute || string(f.Metadata) != "{}" {
			t.Errorf("first failure: %+v", f)
		}
		if body, err := admin.Payload(t.Context(), list[0].ID); err != nil || string(body) != "a1" {
			t.Errorf("body of the first: %q, %v", body, err)
		}
		if next, err := admin.Failures(t.Context(), list[0].ID, 10); err != nil || len(next) != 1 || next[0].Key != "b" {
			t.Errorf("behind the first: %+v, %v; want b's", next, err)
		}
		good.Store(true)
		eventually(t, "a's are sent", func() bool {
			return strings.HasSuffix(strings.Join(m.pendingKeys(t), ""), "bb") && len(m.pendingKeys(t)) == 2
		})
		if n, err := admin.PurgeFailures(t.Context(), list[0].ID, list[1].ID, list[1].ID+1); err != nil || n != 1 {
			t.Errorf("purged %d, %v; want b1 alone", n, err)
		}
		m.drained(t)
		if seen := pub.all(); seen[len(seen)-1] != "account/b2" {
			t.Errorf("last on the wire: %s, want b2, whose way is free", seen[len(seen)-1])
		}
		if _, err := admin.Payload(t.Context(), list[0].ID); !errors.Is(err, relay.ErrGone) {
			t.Errorf("body of a message that is gone: %v, want ErrGone", err)
		}
		if n := m.count(t, "outbox_failures") + m.count(t, "outbox_dead"); n != 0 {
			t.Errorf("%d failures and dead letters are left, want none", n)
		}
	})
}

// What is to be tried at once by the next relay that starts leaves no failure behind.
func TestRetryFailuresWithoutARelay(t *testing.T) {
	t.Parallel()
	db, _ := testdb.Postgres(t)
	m := migrated(t, db, relay.Postgres)
	var good atomic.Bool
	pub := &recorder{fate: func(string) error {
		if good.Load() {
			return nil
		}
		return refusal{}
	}}
	m.put(t, "a1", "b1")
	_, stop := m.start(t, pub, relay.Config{})
	eventually(t, "both are failing", func() bool { return m.count(t, "outbox_failures") == 2 })
	stop()
	failing, err := m.admin(t).Failures(t.Context(), 0, 1)
	if err != nil || len(failing) != 1 {
		t.Fatalf("%d failing, %v; want 1", len(failing), err)
	}
	if n, err := m.admin(t).RetryFailures(t.Context(), failing[0].ID); err != nil || n != 1 {
		t.Errorf("%d are due, %v; want 1", n, err)
	}
	good.Store(true)
	_, stop = m.start(t, pub, relay.Config{})
	m.drained(t)
	stop()
	if n := m.count(t, "outbox_failures"); n != 0 {
		t.Errorf("%d failures are left, want none", n)
	}
}

// A failing message that is given up is a dead letter with its error and attempts, its
// key goes on, and it can be put back. What is not failing is left alone.
func TestGiveUpFailures(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		var good atomic.Bool
		pub := &recorder{fate: func(p string) error {
			if strings.HasPrefix(p, "a") && !good.Load() {
				return refusal{}
			}
			return nil
		}}
		m.put(t, "a1", "a2", "b1")
		m.start(t, pub, relay.Config{})
		admin := m.admin(t)
		var failing []relay.Failure
		eventually(t, "several refusals, and b is through", func() bool {
			var err error
			if failing, err = admin.Failures(t.Context(), 0, 10); err != nil {
				t.Fatal(err)
			}
			return len(failing) == 1 && failing[0].Attempts > 2 && len(m.pendingKeys(t)) == 2
		})
		// An id that was given out again finds the dead letter of another message.
		if _, err := m.ExecContext(t.Context(), columns(`INSERT INTO outbox_dead (id, topic, key, payload, metadata, created_at, error, attempts)
			SELECT id, 'other', key, payload, metadata, created_at, 'old', 1 FROM outbox WHERE key = 'a'`, m.dialect)); err != nil {
			t.Fatal(err)
		}
		id := failing[0].ID
		if n, err := admin.GiveUpFailures(t.Context(), id, id+1, id+2, id+100); err != nil || n != 1 {
			t.Errorf("gave %d up, %v; want a1 alone", n, err)
		}
		letters, err := admin.DeadLetters(t.Context(), id-1, 1)
		if err != nil || len(letters) != 1 {
			t.Fatalf("%d letters, %v; want 1", len(letters), err)
		}
		if d := letters[0]; d.ID != id || d.Topic != "account" || string(d.Payload) != "a1" || d.Attempts < 3 || d.Error != "refused" ||
			time.Since(d.Died) > time.Minute || d.Created.Sub(failing[0].Created) != 0 {
			t.Errorf("letter: %+v", d)
		}
		good.Store(true)
		m.drained(t)
		if n := m.count(t, "outbox_failures"); n != 0 {
			t.Errorf("%d failures are left, want none", n)
		}
		if n, err := admin.RetryDead(t.Context(), id); err != nil || n != 1 {
			t.Errorf("put %d back, %v; want 1", n, err)
		}
		m.drained(t)
		if seen := pub.all(); seen[len(seen)-2] != "account/a2" || seen[len(seen)-1] != "account/a1" {
			t.Errorf("the last on the wire: %v, want a2, which was next, and a1, which was put back", seen[len(seen)-2:])
		}
	})
}

func (m master) pendingKeys(t *testing.T) (keys []string) {
	t.Helper()
	rows, err := m.QueryContext(t.Context(), columns(`SELECT key FROM outbox ORDER BY id`, m.dialect))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var key string
		if err := rows.Scan(&key); err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return keys
}

// A failing message that is to wait for years goes when it is asked for.
func TestRetryFailureNow(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.put(t, "a1", "a2")
		at := map[relay.Dialect]string{relay.Postgres: "2099-01-01", relay.MySQL: "2099-01-01", relay.SQLite: "2099-01-01 00:00:00.000000+00:00"}[m.dialect]
		if _, err := m.ExecContext(t.Context(), `INSERT INTO outbox_failures (outbox_id, attempts, last_error, retry_at)
			SELECT min(id), 20, 'refused', '`+at+`' FROM outbox`); err != nil {
			t.Fatal(err)
		}
		pub := &recorder{}
		r, _ := m.start(t, pub, relay.Config{})
		eventually(t, "the key is known to wait", func() bool { return r.Stats().Blocked == 1 })
		failing, err := m.admin(t).Failures(t.Context(), 0, 10)
		if err != nil || len(failing) != 1 {
			t.Fatalf("%d failing, %v; want 1", len(failing), err)
		}
		if n, err := m.admin(t).RetryFailures(t.Context(), failing[0].ID); err != nil || n != 1 {
			t.Errorf("retried %d, %v; want 1", n, err)
		}
		m.drained(t)
		// The first read of the table may see a1 once more while its deletion is under way.
		if diff := cmp.Diff([]string{"account/a1", "account/a2"}, slices.Compact(pub.all())); diff != "" {
			t.Errorf("messages on the wire, repeats aside (-want +have):\n%s", diff)
		}
	})
}

// Dead messages are listed whole, sent again in their order, or purged.
func TestDeadListRetryPurge(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		var good atomic.Bool
		pub := &recorder{fate: func(string) error {
			if good.Load() {
				return nil
			}
			return refusal{permanent: true}
		}}
		m.put(t, "a1", "b1", "c1")
		m.start(t, pub, relay.Config{})
		m.drained(t)
		admin := m.admin(t)
		letters, err := admin.DeadLetters(t.Context(), 0, 2)
		if err != nil || len(letters) != 2 {
			t.Fatalf("%d letters, %v; want 2", len(letters), err)
		}
		have := letters[0]
		if age := time.Since(have.Died); age < -time.Minute || age > time.Minute || have.Created.After(have.Died) {
			t.Errorf("created %v, died %v", have.Created, have.Died)
		}
		have.Created, have.Died = time.Time{}, time.Time{}
		want := relay.DeadLetter{ID: have.ID, Topic: "account", Key: "a", Payload: []byte("a1"), Metadata: []byte("{}"), Attempts: 1, Error: "refused"}
		if diff := cmp.Diff(want, have); diff != "" {
			t.Errorf("letter (-want +have):\n%s", diff)
		}
		good.Store(true)
		rest, err := admin.DeadLetters(t.Context(), letters[1].ID, 10)
		if err != nil || len(rest) != 1 {
			t.Fatalf("%d letters behind the second, %v; want 1", len(rest), err)
		}
		if n, err := admin.RetryDead(t.Context(), rest[0].ID, letters[0].ID); err != nil || n != 2 {
			t.Errorf("retried %d, %v; want 2", n, err)
		}
		eventually(t, "both are sent again", func() bool { return len(pub.all()) == 5 })
		wantSeen(t, pub, "a1", "b1", "c1", "a1", "c1")
		m.drained(t)
		if n, err := admin.PurgeDead(t.Context(), letters[1].ID, letters[0].ID); err != nil || n != 1 {
			t.Errorf("purged %d, %v; want 1: the others live again", n, err)
		}
		if n := m.count(t, "outbox_dead"); n != 0 {
			t.Errorf("%d dead left, want 0", n)
		}
	})
}

type unwanted struct{ refusal }

func (unwanted) Unroutable() bool { return true }

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// Messages that nobody wants are dropped, counted one by one and warned of once.
func TestDroppedMessagesAreCountedAndWarnedOfOnce(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		var log syncBuffer
		pub := &recorder{fate: func(string) error { return unwanted{} }}
		r, stop := m.start(t, pub, relay.Config{BatchSize: 2, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		m.put(t, "a1", "a2", "b1", "b2", "c1")
		m.drained(t)
		stop()
		if s := r.Stats(); s.Dropped != 5 || s.Returned != 5 || s.Published != 0 {
			t.Errorf("%d dropped, %d returned, %d published; want 5, 5, 0", s.Dropped, s.Returned, s.Published)
		}
		if n := strings.Count(log.String(), "no queue is bound to the topic"); n != 1 {
			t.Errorf("%d warnings, want 1 for the topic:\n%s", n, log.String())
		}
	})
}

// A dead event that expires is put back with its life anew, whatever else is dead.
func TestRetryDeadRenewsTheExpiry(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		var good atomic.Bool
		pub := &recorder{fate: func(string) error {
			if good.Load() {
				return nil
			}
			return refusal{permanent: true}
		}}
		const life = 30 * time.Minute
		born := time.Now().Add(-time.Hour)
		expired := event.FormatExpires(born.Add(life))
		body := func(expires string) string {
			return `{"signal_type":"SAVE","cqrs_id":"account","instance_data":{},"previous_data":null,"instance_pk":1,` +
				`"correlation_id":null,"retries":0,"expires":` + expires + `,"meta":{}}`
		}
		bodies := []string{body(`"` + expired + `"`), body("null"), "other"}
		m.put(t, bodies...)
		hourAgo := map[relay.Dialect]string{
			relay.Postgres: `created_at - interval '1 hour'`, relay.MySQL: `created_at - INTERVAL 1 HOUR`,
			relay.SQLite: `strftime('%Y-%m-%d %H:%M:%f000+00:00', substr(created_at, 1, 23), '-1 hour')`,
		}[m.dialect]
		if _, err := m.ExecContext(t.Context(), `UPDATE outbox SET created_at = `+hourAgo); err != nil {
			t.Fatal(err)
		}
		m.start(t, pub, relay.Config{})
		m.drained(t)
		good.Store(true)
		letters, err := m.admin(t).DeadLetters(t.Context(), 0, 10)
		if err != nil || len(letters) != 3 {
			t.Fatalf("%d letters, %v; want 3", len(letters), err)
		}
		if n, err := m.admin(t).RetryDead(t.Context(), letters[0].ID, letters[1].ID, letters[2].ID); err != nil || n != 3 {
			t.Fatalf("retried %d, %v; want 3", n, err)
		}
		eventually(t, "all are sent again", func() bool { return len(pub.all()) == 6 })
		sent := pub.all()[3:]
		for i := range sent {
			sent[i] = strings.TrimPrefix(sent[i], "account/")
		}
		e, err := event.Decode([]byte(sent[0]))
		if left := time.Until(e.Expires); err != nil || left < life-patience || left > life+time.Second {
			t.Errorf("the first expires in %v, %v; want its life anew: %s", left, err, sent[0])
		}
		if event.FormatExpires(e.Expires) <= expired {
			t.Errorf("the first expires at %v, as before", e.Expires)
		}
		if diff := cmp.Diff(bodies[1:], sent[1:]); diff != "" {
			t.Errorf("the others (-want +have):\n%s", diff)
		}
	})
}

// The overview says what waits, what fails, and who has the lease.
func TestOverview(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		admin := m.admin(t)
		o, err := admin.Overview(t.Context())
		if off := time.Since(o.Now); err != nil || off < -time.Minute || off > time.Minute {
			t.Fatalf("Overview: its clock is %v off, %v", off, err)
		}
		o.Now = time.Time{}
		if diff := cmp.Diff(relay.Overview{Shards: 1}, o); diff != "" {
			t.Errorf("of an empty outbox (-want +have):\n%s", diff)
		}
		pub := &recorder{fate: func(payload string) error { return refusal{permanent: strings.HasPrefix(payload, "d")} }}
		m.put(t, "a1", "a2", "d1")
		_, stop := m.start(t, pub, relay.Config{LeaseTTL: time.Minute})
		eventually(t, "one fails and one is dead", func() bool {
			o, err = admin.Overview(t.Context())
			return err == nil && o.Pending == 2 && o.Failing == 1 && o.Dead == 1
		})
		if o.OldestFailing < 0 || o.OldestFailing > time.Minute {
			t.Errorf("the oldest failing one is %v old", o.OldestFailing)
		}
		if l := o.Leases; len(l) != 1 || l[0].Holder == "" || l[0].Term != 1 || l[0].Shards != 1 ||
			l[0].Left < 30*time.Second || l[0].Left > 61*time.Second || l[0].Renewed < -time.Second || l[0].Renewed > 30*time.Second {
			t.Errorf("leases %+v", l)
		}
		if o.Oldest < 0 || o.Oldest > time.Minute {
			t.Errorf("the oldest is %v old", o.Oldest)
		}
		stop()
		if o, err = admin.Overview(t.Context()); err != nil || len(o.Leases) != 1 || o.Leases[0].Left > 0 {
			t.Errorf("after the relay's end: %+v, %v; want a lease that nobody has", o.Leases, err)
		}
		// One that was deleted by hand is not failing any more, whatever is noted of it.
		older := map[relay.Dialect]string{
			relay.Postgres: `created_at - interval '3 hours'`, relay.MySQL: `created_at - INTERVAL 3 HOUR`,
			relay.SQLite: `strftime('%Y-%m-%d %H:%M:%f000+00:00', substr(created_at, 1, 23), '-3 hours')`,
		}[m.dialect]
		if _, err := m.ExecContext(t.Context(), `UPDATE outbox SET created_at = `+older); err != nil {
			t.Fatal(err)
		}
		if o, err = admin.Overview(t.Context()); err != nil || o.OldestFailing.Round(time.Hour) != 3*time.Hour {
			t.Errorf("the oldest failing one is %v old, %v; want 3 hours", o.OldestFailing, err)
		}
		if _, err := m.ExecContext(t.Context(), columns(`DELETE FROM outbox WHERE key = 'a'`, m.dialect)); err != nil {
			t.Fatal(err)
		}
		if o, err = admin.Overview(t.Context()); err != nil || o.Pending != 0 || o.Failing != 0 || o.OldestFailing != 0 {
			t.Errorf("nothing is pending, and %d are failing, the oldest for %v, %v", o.Failing, o.OldestFailing, err)
		}
	})
}
