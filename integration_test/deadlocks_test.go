package integration_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/lockstep-go/lockstep/outbox"
)

// Writers lock the same rows in opposite orders, so that the server gives one of them up
// for the other. What it had written is gone with its events, and nothing else is.
func TestWritersThatDeadlock(t *testing.T) {
	t.Parallel()
	for name, rigOf := range map[string]func(t *testing.T) *rig{
		"postgres": func(t *testing.T) *rig { t.Helper(); return newRig(t, account()) },
		"mariadb":  func(t *testing.T) *rig { t.Helper(); return newMariaDBRig(t, nil, account()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := rigOf(t)
			re := r.startRelay(t)
			c := r.startConsumer(t)
			w := r.startWriters(t) // of other accounts
			r.progress(t)
			for round := range int64(3) {
				r.deadlock(t, 1001+2*round, 1002+2*round)
			}
			r.progress(t)
			w.stop()
			r.caughtUp(t)
			spared(t, re, c)
			missedNone(t, c)
			if n := repeats(r.settled(t)); n > 0 {
				t.Errorf("%d messages were published twice, want none", n)
			}
		})
	}
}

// deadlock has two transactions that each save one account and then the other's.
func (r *rig) deadlock(t *testing.T, one, other int64) {
	t.Helper()
	var both sync.WaitGroup // have their first row
	both.Add(2)
	ended := make(chan error, 2)
	begin := func(first, second int64) {
		arrived := sync.OnceFunc(both.Done)
		defer arrived()
		ended <- r.ob.InTx(t.Context(), r.master, func(ctx context.Context, tx *outbox.Tx) error {
			if err := errors.Join(r.put(ctx, tx, first, "first"), tx.Flush(ctx)); err != nil { // its event, too
				return err
			}
			arrived()
			both.Wait()
			return r.put(ctx, tx, second, "second")
		})
	}
	go begin(one, other)
	go begin(other, one)
	gaveUp := 0
	for range 2 {
		switch err := <-ended; {
		case deadlocked(err):
			gaveUp++
		case err != nil:
			t.Errorf("writer: %v", err)
		}
	}
	if gaveUp == 0 { // both, where the other one then met a writer's locks on MariaDB
		t.Error("none of the two transactions was deadlocked: the test shows nothing")
	}
}
