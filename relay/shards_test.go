package relay_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/relay"
)

// wire is a broker that several relays publish to. It confirms late, so that
// much is under way at any time.
type wire struct {
	mu   sync.Mutex
	seen []string
	by   map[string]map[int]bool // which relays sent a key
}

// relaying is one relay's connection to the wire.
type relaying struct {
	*wire
	relay int
}

func (w relaying) PublishAsync(_ context.Context, _ []string, msgs []*message.Message) func(context.Context) []error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range msgs {
		key := string(m.Payload[:1])
		w.seen = append(w.seen, string(m.Payload))
		if w.by[key] == nil {
			w.by[key] = map[int]bool{}
		}
		w.by[key][w.relay] = true
	}
	late := time.After(rand.N(40 * time.Millisecond))
	return func(ctx context.Context) []error {
		select {
		case <-late:
			return nil
		case <-ctx.Done():
			return slices.Repeat([]error{ctx.Err()}, len(msgs))
		}
	}
}

func (relaying) Publish(string, ...*message.Message) error { panic("the relay must use PublishAsync") }
func (relaying) Close() error                              { return nil }

// senders are the relays that sent anything.
func (w *wire) senders() map[int]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := map[int]bool{}
	for _, by := range w.by {
		for relay := range by {
			all[relay] = true
		}
	}
	return all
}

const shardKeys = "abcdefghijklmnop"

// inOrder expects each key's messages on the wire in order, and none twice unless
// repeats are allowed, which begin anywhere and go on from there.
func (w *wire) inOrder(t *testing.T, each int, repeats bool) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	next := map[byte]int{}
	for i, p := range w.seen {
		var n int
		if _, err := fmt.Sscanf(p[1:], "%d", &n); err != nil {
			t.Fatal(err)
		}
		if repeats && n < next[p[0]] {
			next[p[0]] = n // again, and all behind it again
		}
		if n != next[p[0]] {
			t.Fatalf("message %d on the wire is %s, want %c%d", i, p, p[0], next[p[0]])
		}
		next[p[0]]++
	}
	for _, key := range []byte(shardKeys) {
		if next[key] != each {
			t.Errorf("%d messages of key %c, want %d", next[key], key, each)
		}
	}
}

// lostLeases counts the leases that were lost, which is the only thing that may go
// wrong here: on a busy machine a renewal can take longer than a lease of two seconds
// leaves it, above all on SQLite, where all writers ask for one lock that is not given
// in turn. What was under way is then sent again by the next owner.
func lostLeases(t *testing.T, log string) (lost int) {
	t.Helper()
	for line := range strings.Lines(log) {
		switch {
		case strings.Contains(line, `msg="lease lost, standing by"`):
			lost++
			t.Log(line)
		case strings.Contains(line, "level=WARN"), strings.Contains(line, "level=ERROR"):
			t.Errorf("a relay had trouble that nothing here should cause: %s", line)
		}
	}
	return lost
}

// Relays come, go, and change the number of shards under load. All work side by
// side, and each key's messages reach the wire in order, and once unless a lease was
// lost.
func TestShardsUnderLoad(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		w := &wire{by: map[string]map[int]bool{}}
		var log syncBuffer
		relays := 0
		start := func(shards int) (*relay.Relay, func()) {
			relays++
			return m.start(t, relaying{w, relays}, relay.Config{
				Shards: shards, LeaseTTL: 2 * time.Second, BatchSize: 7, Poll: 5 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(&log, nil)),
			})
		}
		const least = 120
		each, allCame, written := 0, make(chan struct{}), make(chan struct{})
		go func() {
			defer close(written)
			for ; ; each++ {
				if each >= least {
					select {
					case <-allCame:
						return
					default: // all of them are to have something to send, on a slow machine too
					}
				}
				for _, key := range shardKeys {
					m.putIn(t, m.DB, fmt.Sprintf("%c%d", key, each))
				}
				select {
				case <-time.After(50 * time.Millisecond):
				case <-t.Context().Done():
					return
				}
			}
		}()
		holds := func(what string, want int, relays ...*relay.Relay) {
			t.Helper()
			eventually(t, what, func() bool {
				leases := 0
				for _, r := range relays {
					n := r.Stats().Leases
					if n == 0 {
						return false
					}
					leases += n
				}
				return leases == want
			})
		}
		first, stopFirst := start(4)
		holds("one relay works on all 4 shards", 4, first)
		second, stopSecond := start(0)
		holds("two share them", 4, first, second)
		third, _ := start(3)
		holds("three share 3", 3, first, second, third)
		stopFirst()
		holds("two share 3", 3, second, third)
		fourth, _ := start(1)
		eventually(t, "one of three works on the only shard", func() bool {
			return second.Stats().Leases+third.Stats().Leases+fourth.Stats().Leases == 1
		})
		fifth, _ := start(2)
		eventually(t, "two of four work", func() bool {
			return second.Stats().Leases+third.Stats().Leases+fourth.Stats().Leases+fifth.Stats().Leases == 2
		})
		stopSecond()
		close(allCame)
		<-written
		m.drained(t)
		w.inOrder(t, each, lostLeases(t, log.String()) > 0)
		if n := len(w.senders()); n < 3 {
			t.Errorf("%d relays sent something, want 3 or more", n)
		}
	})
}

// A message that is failing waits in its own shard, and no other shard's owner
// knows of it.
func TestFailuresStayInTheirShard(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		for _, key := range shardKeys {
			m.put(t, string(key)+"0", string(key)+"1")
		}
		at := map[relay.Dialect]string{relay.Postgres: "2099-01-01", relay.MySQL: "2099-01-01", relay.SQLite: "2099-01-01 00:00:00.000000+00:00"}[m.dialect]
		if _, err := m.ExecContext(t.Context(), columns(`INSERT INTO outbox_failures (outbox_id, attempts, last_error, retry_at)
			SELECT min(id), 20, 'refused', '`+at+`' FROM outbox GROUP BY key`, m.dialect)); err != nil {
			t.Fatal(err)
		}
		w := &wire{by: map[string]map[int]bool{}}
		one, _ := m.start(t, relaying{w, 1}, relay.Config{Shards: 2, LeaseTTL: time.Second})
		two, _ := m.start(t, relaying{w, 2}, relay.Config{LeaseTTL: time.Second})
		var a, b int64
		eventually(t, "each key waits once, in one relay or the other", func() bool {
			a, b = one.Stats().Blocked, two.Stats().Blocked
			return one.Stats().Leases == 1 && two.Stats().Leases == 1 && a > 0 && b > 0 && a+b == int64(len(shardKeys))
		})
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.seen) > 0 {
			t.Errorf("sent %q past what they wait for", w.seen)
		}
	})
}

// What another relay's shard has pending does not make a relay unhealthy that has
// nothing to send, and what its own has does.
func TestStalledByItsOwnShard(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		broker := &recorder{fate: func(payload string) error {
			if payload == "a1" {
				return refusal{}
			}
			return errors.New("the broker is away")
		}}
		cfg := relay.Config{Look: 10 * time.Millisecond, Shards: 2, LeaseTTL: 2 * time.Second, MaxAttempts: 1000}
		one, _ := m.start(t, broker, cfg)
		two, _ := m.start(t, broker, cfg)
		const limit = 2 * time.Second
		stalled := func(r *relay.Relay) bool { return r.Stats().Stalled(time.Now(), limit) != nil }
		eventually(t, "each works on a shard", func() bool { return one.Stats().Leases == 1 && two.Stats().Leases == 1 })
		m.put(t, "a1")
		eventually(t, "both know that a message is pending", func() bool {
			return one.Stats().Outbox.Pending == 1 && two.Stats().Outbox.Pending == 1
		})
		// A machine that halts for the limit is a stall, too, and over with the next look at the outbox.
		stalls := 0
		for start := time.Now(); time.Since(start) < 4*limit; <-time.After(20 * time.Millisecond) {
			if stalls++; !stalled(one) && !stalled(two) {
				stalls = 0
			}
			if stalls == 100 {
				t.Fatalf("stalled by a refused message: %v, and beside it %v", stalled(one), stalled(two))
			}
		}
		for _, key := range shardKeys {
			m.put(t, string(key)+"2")
		}
		eventually(t, "both are stalled while the broker is away", func() bool { return stalled(one) && stalled(two) })
	})
}

// halting is a broker that takes a while for each batch.
type halting struct{ *recorder }

func (h halting) PublishAsync(ctx context.Context, topics []string, msgs []*message.Message) func(context.Context) []error {
	<-time.After(10 * time.Millisecond)
	return h.recorder.PublishAsync(ctx, topics, msgs)
}

// A relay that is far behind, with rows missing as another shard's owner leaves them,
// does not pass over one that commits late in what it has still to read, nor one in
// what it has read.
func TestLateCommitsInABacklogWithHoles(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		if m.dialect == relay.SQLite { // which has one writer at a time
			return
		}
		open := func(payload string) (commit func()) {
			tx, err := m.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			m.putIn(t, tx, payload)
			return func() {
				if err := tx.Commit(); err != nil {
					t.Fatal(err)
				}
			}
		}
		exec := func(tx *sql.Tx, statement string) {
			if _, err := tx.ExecContext(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
		}
		fill := func(n int) {
			tx, err := m.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			for i := range n { // each behind an id that is drawn and not used
				exec(tx, `SAVEPOINT hole`)
				m.putIn(t, tx, "a")
				exec(tx, `ROLLBACK TO SAVEPOINT hole`)
				m.putIn(t, tx, fmt.Sprintf("a%d", i))
			}
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
		}
		fill(100)
		commitBehind := open("y1")
		fill(900)
		commitAhead := open("z1")
		fill(100)
		pub := &recorder{}
		m.start(t, halting{pub}, relay.Config{BatchSize: 4})
		<-time.After(4 * time.Second) // time enough to take those two for rolled back
		commitBehind()
		commitAhead()
		began := time.Now()
		m.drained(t)
		if took := time.Since(began); took > 45*time.Second { // an idle relay looks at everything once a minute
			t.Errorf("the outbox was empty after %v", took)
		}
		sent := map[string]bool{}
		for _, message := range pub.all() {
			sent[message] = true
		}
		if !sent["account/y1"] || !sent["account/z1"] {
			t.Errorf("sent y1: %v, z1: %v", sent["account/y1"], sent["account/z1"])
		}
	})
}
