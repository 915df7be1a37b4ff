package integration_test

import (
	"context"
	"testing"

	"github.com/lockstep-go/lockstep/outbox"
)

func TestCreatedRowReachesTheReplica(t *testing.T) {
	t.Parallel()
	r := newRig(t, account())
	r.startRelay(t)
	r.startConsumer(t)
	r.create(t)
	if n := number(t, r.replica, "SELECT count(*) FROM account_ref"); n != 3 {
		t.Errorf("%d rows in the replica, want 3", n)
	}
	r.settled(t)
}

// create makes the accounts 1 to 3, in two transactions.
func (r *rig) create(t *testing.T) {
	t.Helper()
	r.do(t, func(ctx context.Context, tx *outbox.Tx) error { return r.put(ctx, tx, 1, "Ann") })
	r.do(t, func(ctx context.Context, tx *outbox.Tx) error {
		if err := r.put(ctx, tx, 2, "Bob"); err != nil {
			return err
		}
		return r.put(ctx, tx, 3, `Zoë "Ω" \ 😀`)
	})
	r.caughtUp(t)
}
