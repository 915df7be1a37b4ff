package integration_test

import (
	"context"
	"testing"

	"github.com/lockstep-go/lockstep/outbox"
)

func TestUpdatedRowReachesTheReplica(t *testing.T) {
	t.Parallel()
	r := newRig(t, account())
	r.startRelay(t)
	r.startConsumer(t)
	r.create(t)
	r.update(t)
	r.settled(t)
}

// update changes account 1 twice and makes a column of it null.
func (r *rig) update(t *testing.T) {
	t.Helper()
	r.do(t, func(ctx context.Context, tx *outbox.Tx) error { return r.put(ctx, tx, 1, "Anna") })
	r.do(t, func(ctx context.Context, tx *outbox.Tx) error {
		if _, err := tx.ExecContext(ctx, `UPDATE accounts SET note = NULL, balance = -12345678901234.5678 WHERE id = 1`); err != nil {
			return err
		}
		return tx.Saved(r.id("account"), 1)
	})
	r.caughtUp(t)
	if n := number(t, r.replica, "SELECT count(*) FROM account_ref WHERE account_id = 1 AND title = 'Anna' AND remark IS NULL"); n != 1 {
		t.Error("account 1 is not as it was changed last")
	}
}
