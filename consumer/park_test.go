package consumer

import (
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
)

// family is a replica of nodes that refer to each other and of leaves that refer
// to nodes.
func family(t *testing.T, d Dialect, ask time.Duration, cfg func(c *Config), leaf Table) (*rig, *running) {
	t.Helper()
	db := openDB(t, d,
		`CREATE TABLE node_ref (id bigint PRIMARY KEY, above bigint REFERENCES node_ref (id), cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL)`,
		`CREATE TABLE leaf_ref (id bigint PRIMARY KEY, node bigint REFERENCES node_ref (id), cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL)`)
	leaf.Name = "leaf_ref"
	r := rigOn(t, db, map[string]Table{"node": {Name: "node_ref", RetryDelay: leaf.RetryDelay}, "leaf": leaf})
	r.cfg.Now, r.askEvery = time.Now, ask
	if cfg != nil {
		cfg(&r.cfg)
	}
	broker := newTestBroker()
	broker.requeue = true
	return r, r.start(t, broker, broker)
}

func node(id, above int) *message.Message {
	return child("node", "above", id, above, 1)
}

func leaf(id, above, revision int) *message.Message {
	return child("leaf", "node", id, above, revision)
}

// child makes a SAVE of a row that refers to another; 0 refers to none.
func child(entity, column string, id, above, revision int) *message.Message {
	to := "null"
	if above != 0 {
		to = fmt.Sprint(above)
	}
	return lockstep(envelope("SAVE", entity, fmt.Sprintf(`{"id":%d,%q:%s,%s}`, id, column, to, versionJSON(int64(revision), at(revision)))))
}

// TestParkedUntilTheParentComes: children that arrive first wait, whatever their
// number and depth, and are applied as soon as what they refer to is there, long
// before their delay is over and without an attempt.
func TestParkedUntilTheParentComes(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		const many = 200
		r, run := family(t, d, time.Hour, nil, Table{RetryDelay: time.Hour})
		var early []*message.Message
		for i := range many {
			early = append(early, leaf(i+1, 2, 1))
		}
		early = append(early, leaf(1, 3, 2), leaf(2, 0, 2)) // the first waits for another node then, the second for none
		run.broker.deliver(early...)
		run.broker.deliver(node(3, 2), node(2, 1))
		eventually(t, "all are parked but the one that waits for nothing", func() bool { return r.Stats().Parked == int64(many+2) || r.Stats().Parked == int64(many+3) })
		run.broker.deliver(leaf(9001, 0, 1))
		eventually(t, "others are applied meanwhile", func() bool { return len(dump(t, r.db, "SELECT id FROM leaf_ref WHERE id = 9001")) == 1 })
		run.broker.deliver(node(1, 0))
		run.awaitAcked(t, len(early)+4)
		if s := r.Stats(); s.Parked != 0 || s.Retried+s.Dead != 0 {
			t.Errorf("have %+v, want none parked and no attempt spent", s)
		}
		want := []string{"id=1 node=3", "id=2 node=null"}
		if diff := cmp.Diff(want, dump(t, r.db, "SELECT id, node FROM leaf_ref WHERE id < 3")); diff != "" {
			t.Errorf("order within a key (-want +have):\n%s", diff)
		}
		if n := len(dump(t, r.db, "SELECT id FROM leaf_ref")); n != many+1 {
			t.Errorf("have %d leaves, want %d", n, many+1)
		}
	})
}

// TestParkedForNothing: a child whose parent never comes spends its attempts and
// is a dead letter.
func TestParkedForNothing(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		r, run := family(t, d, time.Hour, nil, Table{MaxRetries: 2, RetryDelay: 30 * time.Millisecond})
		begin := time.Now()
		run.broker.deliver(leaf(1, 1, 1))
		const dead = "cqrs.dead_letter_replica.leaf"
		eventually(t, "the dead letter", func() bool { return len(run.broker.on(dead)) == 1 })
		eventually(t, "nothing is parked, and all is counted", func() bool {
			s := r.Stats()
			return s.Parked == 0 && s.Retried >= 2 && s.Dead > 0
		})
		if s := r.Stats(); s.Retried != 2 || s.Dead != 1 {
			t.Errorf("have %+v, want 2 retried and 1 dead", s)
		}
		if took := time.Since(begin); took < 60*time.Millisecond {
			t.Errorf("took %s, want two delays of 30ms", took)
		}
		if reason := run.broker.on(dead)[0].Metadata.Get("lockstep-reason"); reason != reasonRetries {
			t.Errorf("reason %q, want %q", reason, reasonRetries)
		}
	})
}

// TestParkedAtTheEnd: what is parked when the consumer stops goes back to the
// queue as it was, and the next consumer applies it.
func TestParkedAtTheEnd(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		r, run := family(t, d, time.Hour, nil, Table{RetryDelay: time.Hour})
		run.broker.mu.Lock()
		run.broker.requeue = false
		run.broker.mu.Unlock()
		run.broker.deliver(leaf(1, 1, 1), leaf(2, 1, 1))
		eventually(t, "both are parked", func() bool { return r.Stats().Parked == 2 })
		if err := run.stop(t); err != nil {
			t.Errorf("Run: %v", err)
		}
		eventually(t, "both go back", func() bool { _, nacked := run.broker.counts(); return nacked == 2 })
		if s := r.Stats(); s.Parked != 0 || s.Retried != 0 {
			t.Errorf("have %+v, want none parked or retried", s)
		}
		next := newTestBroker()
		again := r.start(t, next, next)
		next.deliver(leaf(1, 1, 1), leaf(2, 1, 1), node(1, 0))
		again.awaitAcked(t, 3)
		if n := len(dump(t, r.db, "SELECT id FROM leaf_ref")); n != 2 {
			t.Errorf("have %d leaves, want 2", n)
		}
	})
}

// TestNoRoomToPark: what finds no room is tried again through the broker.
func TestNoRoomToPark(t *testing.T) {
	t.Parallel()
	r, run := family(t, SQLite, time.Hour, func(cfg *Config) { cfg.MaxParked = 3 }, Table{RetryDelay: time.Hour})
	run.broker.mu.Lock()
	run.broker.requeue = false
	run.broker.mu.Unlock()
	for i := range 5 {
		run.broker.deliver(leaf(i+1, 1, 1))
	}
	eventually(t, "two are retried", func() bool { return r.Stats().Retried == 2 })
	if s := r.Stats(); s.Parked != 3 {
		t.Errorf("%d parked, want 3", s.Parked)
	}
	run.broker.deliver(node(1, 0))
	eventually(t, "three are applied", func() bool { return len(dump(t, r.db, "SELECT id FROM leaf_ref")) == 3 })
}

// TestNothingIsParkedSingly: a mounted consumer keeps nothing. The child goes to the
// broker for its delay, which is an attempt, and is applied when it comes again.
func TestNothingIsParkedSingly(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		r, run := family(t, d, time.Hour, nil, Table{RetryDelay: 7 * time.Second})
		if err := run.stop(t); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = r.Close() }()
		child := leaf(1, 1, 1)
		if o, err := r.Apply(t.Context(), child); err != nil || o.Result != Parked || o.Delay != 7*time.Second || o.Err == nil {
			t.Errorf("Apply: %+v, %v, want it parked for 7s", o, err)
		}
		if err := r.HandleMessage(child); err != nil {
			t.Fatal(err)
		}
		const back = "cqrs.replica.leaf"
		copies := run.broker.on(back)
		if s := r.Stats(); len(copies) != 1 || s.Retried != 1 || s.Parked != 0 {
			t.Fatalf("%d copies, %+v, want one retried and none parked", len(copies), s)
		}
		if diff := cmp.Diff([]time.Duration{7 * time.Second}, run.broker.delays); diff != "" {
			t.Errorf("delays (-want +have):\n%s", diff)
		}
		for _, m := range []*message.Message{node(1, 0), copies[0]} {
			if err := r.HandleMessage(m); err != nil {
				t.Fatal(err)
			}
		}
		if rows := dump(t, r.db, "SELECT id FROM leaf_ref"); len(rows) != 1 || len(run.broker.on(back)) != 1 {
			t.Errorf("have rows %v and %d copies, want the child applied", rows, len(run.broker.on(back)))
		}
	})
}
