package integration_test

import (
	"context"
	"testing"

	"github.com/lockstep-go/lockstep/outbox"
)

// The repetition in settled brings the DELETE and the SAVEs before it after the
// row was made anew.
func TestDeleteAndCreateAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, account())
	r.startRelay(t)
	r.startConsumer(t)
	r.create(t)
	r.remove(t)
	r.createAgain(t)
	r.settled(t)
}

// createAgain makes account 1, which was deleted, anew, and deletes and makes it
// once more within one transaction.
func (r *rig) createAgain(t *testing.T) {
	t.Helper()
	deleted := number(t, r.master, "SELECT revision FROM outbox_tombstones WHERE key = '1'")
	r.do(t, func(ctx context.Context, tx *outbox.Tx) error { return r.put(ctx, tx, 1, "Ann II") })
	r.caughtUp(t)
	if have := number(t, r.replica, "SELECT cqrs_revision FROM account_ref WHERE account_id = 1"); have != deleted+1 {
		t.Errorf("account 1 was made anew with revision %d, want %d, for the deletion had %d", have, deleted+1, deleted)
	}
	r.do(t, func(ctx context.Context, tx *outbox.Tx) error {
		if err := tx.Delete(ctx, r.id("account"), 1); err != nil {
			return err
		}
		return r.put(ctx, tx, 1, "Ann III")
	})
	r.caughtUp(t)
	if have := number(t, r.replica, "SELECT cqrs_revision FROM account_ref WHERE account_id = 1"); have != deleted+3 {
		t.Errorf("account 1 has revision %d after deletion and creation, want %d", have, deleted+3)
	}
}
