package integration_test

import (
	"context"
	"testing"

	"github.com/lockstep-go/lockstep/outbox"
)

func TestDeletedRowLeavesTheReplica(t *testing.T) {
	t.Parallel()
	r := newRig(t, account())
	r.startRelay(t)
	r.startConsumer(t)
	r.create(t)
	r.update(t)
	r.remove(t)
	r.settled(t)
}

// remove deletes account 1, and account 2 together with a save that is dropped
// for it.
func (r *rig) remove(t *testing.T) {
	t.Helper()
	r.do(t, func(ctx context.Context, tx *outbox.Tx) error { return tx.Delete(ctx, r.id("account"), 1) })
	r.do(t, func(ctx context.Context, tx *outbox.Tx) error {
		if err := r.put(ctx, tx, 2, "farewell"); err != nil {
			return err
		}
		return tx.Delete(ctx, r.id("account"), 2)
	})
	r.caughtUp(t)
	if n := number(t, r.replica, "SELECT count(*) FROM account_ref"); n != 1 {
		t.Errorf("%d rows in the replica, want account 3 alone", n)
	}
}
