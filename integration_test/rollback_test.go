package integration_test

import (
	"context"
	"errors"
	"testing"

	"github.com/lockstep-go/lockstep/outbox"
)

func TestRollbackLeavesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, account())
	r.startRelay(t)
	r.startConsumer(t)
	r.create(t)
	r.rollBack(t)
	if events := r.settled(t); len(events) != 4 {
		t.Errorf("%d events, want the 3 of the creation and the last save", len(events))
	}
}

// rollBack rolls back a creation, a change and a deletion, before and after
// their events were written, and then saves one of the rows.
func (r *rig) rollBack(t *testing.T) {
	t.Helper()
	for _, flushed := range []bool{false, true} {
		err := r.ob.InTx(t.Context(), r.master, func(ctx context.Context, tx *outbox.Tx) error {
			err := errors.Join(r.put(ctx, tx, 100, "never"), r.put(ctx, tx, 3, "never"), tx.Delete(ctx, r.id("account"), 2))
			if flushed {
				err = errors.Join(err, tx.Flush(ctx))
			}
			return errors.Join(err, errChangedMind)
		})
		if !errors.Is(err, errChangedMind) {
			t.Fatal(err)
		}
	}
	r.do(t, func(ctx context.Context, tx *outbox.Tx) error { return r.put(ctx, tx, 3, "after the rollback") })
	r.caughtUp(t)
}
