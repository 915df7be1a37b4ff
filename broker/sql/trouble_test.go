package sql_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/broker/sql"
)

// held is what only the statement has that marks messages as a consumer's.
const held = "SET holder = $1"

// TestCommitInDoubt: messages that were marked as a consumer's, of which it never heard, are not its own
// for as long as it lives: they come, whether the server commits at once, some time later, or never and
// notices that late. And they come before later ones.
func TestCommitInDoubt(t *testing.T) {
	t.Parallel()
	for name, lost := range map[string]struct {
		at   string
		late time.Duration
	}{
		"at once": {"COMMIT", 0},
		"later":   {"COMMIT", 2 * time.Second},
		"never":   {held, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, at := newRig(t)
			way := startProxy(t, at)
			b, direct := open(t, way.url, sql.Config{}), open(t, at, sql.Config{})
			bind(t, b, "billing", "account")
			publish(t, direct, "0", "1", "2")
			way.loseAt(held, lost.at, lost.late)
			out := subscribe(t, b)
			until(t, "the connection is lost", way.hasLost)
			publish(t, direct, "3", "4")
			if diff := cmp.Diff(numbers(0, 5), take(t, out, 5)); diff != "" {
				t.Errorf("bodies (-want +have):\n%s", diff)
			}
			until(t, "all are deleted", func() bool { return stored(t, db) == 0 })
		})
	}
}

// TestFrozenWhileReading: a process that is frozen in the transaction that reads messages keeps them from
// the others no longer than its lease.
func TestFrozenWhileReading(t *testing.T) {
	t.Parallel()
	_, at := newRig(t)
	way := startProxy(t, at)
	other := open(t, at, sql.Config{}) // makes the tables
	frozen := open(t, way.url, sql.Config{Lease: time.Second, ConfirmTimeout: 3 * time.Second})
	bind(t, other, "billing", "account")
	out := subscribe(t, frozen)
	way.freezeAt(held)
	publish(t, other, "0", "1", "2")
	until(t, "it is frozen", way.isStalled)
	if diff := cmp.Diff([]string{"0", "1", "2"}, take(t, subscribe(t, other), 3)); diff != "" {
		t.Errorf("bodies (-want +have):\n%s", diff)
	}
	way.mend()
	publish(t, other, "3")
	select {
	case <-out:
	case <-time.After(100 * time.Millisecond): // the other one has it
	}
}

// TestFrozenWhileDeleting: a process that is frozen while it deletes a queue does not stop publishing for
// longer than its ConfirmTimeout.
func TestFrozenWhileDeleting(t *testing.T) {
	t.Parallel()
	_, at := newRig(t)
	way := startProxy(t, at)
	other := open(t, at, sql.Config{}) // makes the tables
	frozen := open(t, way.url, sql.Config{ConfirmTimeout: 3 * time.Second})
	bind(t, other, "billing", "account")
	bind(t, other, "letters", "account")
	way.freezeAt("WHERE queue = $1")
	if err := frozen.DeleteQueue(t.Context(), "letters"); err == nil {
		t.Error("DeleteQueue of a frozen process succeeds")
	}
	if !way.isStalled() {
		t.Fatal("it was not frozen where it was to be")
	}
	publish(t, other, "0")
	way.mend()
	if diff := cmp.Diff([]string{"0"}, take(t, subscribe(t, other), 1)); diff != "" {
		t.Errorf("bodies (-want +have):\n%s", diff)
	}
}

// TestEndWhileReading: subscriptions that end while they read lose nothing, and leave nothing with themselves.
func TestEndWhileReading(t *testing.T) {
	t.Parallel()
	_, at := newRig(t)
	b := open(t, at, sql.Config{})
	bind(t, b, "billing", "account")
	want := numbers(0, 200)
	publish(t, b, want...)
	for i := range 60 {
		ctx, cancel := context.WithCancel(t.Context())
		out, err := b.Subscribe(ctx, "billing")
		if err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Duration(i%20) * 500 * time.Microsecond)
		cancel()
		for msg := range out {
			msg.Nack()
		}
	}
	var have []string
	out := subscribe(t, b)
	for _, body := range take(t, out, len(want)) {
		if !slices.Contains(have, body) {
			have = append(have, body)
		}
	}
	slices.Sort(want)
	slices.Sort(have)
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("bodies (-want +have):\n%s", diff)
	}
}

// TestLeaseBesideLockedBindings: consumers live on while somebody takes long to delete a queue.
func TestLeaseBesideLockedBindings(t *testing.T) {
	t.Parallel()
	db, at := newRig(t)
	one, two := open(t, at, sql.Config{Lease: lease}), open(t, at, sql.Config{Lease: lease})
	bind(t, one, "billing", "account")
	holding, out := subscribe(t, one), subscribe(t, two)
	publish(t, one, "0")
	select {
	case <-holding:
	case <-out:
		out = holding
	}
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(t.Context(), `LOCK TABLE bindings IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	nothing(t, out, lease*3/2)
}

// TestSlowConnection: messages of which there are too many to be read in time come all the same.
func TestSlowConnection(t *testing.T) {
	t.Parallel()
	_, at := newRig(t)
	way := startProxy(t, at)
	direct := open(t, at, sql.Config{})                                   // makes the tables
	slow := open(t, way.url, sql.Config{ConfirmTimeout: 2 * time.Second}) // within which a busy disk answers, too
	bind(t, direct, "billing", "account")
	body := strings.Repeat("x", 100<<10)
	publish(t, direct, slices.Repeat([]string{body}, 45)...)
	way.slowDown(20 * time.Millisecond)
	for i, have := range take(t, subscribe(t, slow), 45) {
		if have != body {
			t.Fatalf("message %d has %d bytes, want %d", i, len(have), len(body))
		}
	}
}

// TestSequenceBehind: an offset that is there already is not the message's fault. Copied tables may have
// a sequence that was not copied.
func TestSequenceBehind(t *testing.T) {
	t.Parallel()
	db, at := newRig(t)
	b := open(t, at, sql.Config{})
	bind(t, b, "billing", "account")
	publish(t, b, "0", "1", "2")
	execute(t, db, `SELECT setval('messages_offset_seq', 1, false)`)
	until(t, "the message is stored", func() bool {
		err := b.Publish("account", messages("3")...)
		if refusal(err) == "refused" {
			t.Fatalf("Publish: %v, want an outage", err)
		}
		return err == nil
	})
	if diff := cmp.Diff([]string{"0", "1", "2", "3"}, take(t, subscribe(t, b), 4)); diff != "" {
		t.Errorf("bodies (-want +have):\n%s", diff)
	}
}
