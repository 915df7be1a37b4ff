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

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/relay"
)

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
		away := errors.New("connection lost")
		pub := &recorder{fate: func(string) error { return away }}
		m.put(t, "a1", "a2", "b1")
		_, stop := m.start(t, pub, relay.Config{MaxAttempts: 1})
		eventually(t, "several tries", func() bool { return len(pub.all()) >= 9 })
		pub.mu.Lock() // between two batches: of one that is hit in the middle the rest is not sent again
		away = nil
		pub.mu.Unlock()
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
		cfg := relay.Config{LeaseRenew: 300 * time.Millisecond} // nobody waits for a lease's end here
		one, stopOne := m.start(t, first, cfg)
		eventually(t, "the first holds the lease", func() bool { return one.Stats().Term == 1 })
		two, stopTwo := m.start(t, second, cfg)
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
	eventually(t, "a relay that works does not ask writers to notify", func() bool {
		m.put(t, "a2") // it sleeps again a second after its last work
		return !asleep()
	})
}
