package integration_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/lockstep-go/lockstep/outbox"
)

func TestManySavesInOneTransaction(t *testing.T) {
	t.Parallel()
	r := newRig(t, account())
	r.startRelay(t)
	r.startConsumer(t)
	r.create(t)
	r.saveOften(t)
	events := r.settled(t)
	if len(events) != 4 {
		t.Errorf("%d events, want the 3 of the creation and 1 for all the saves", len(events))
	}
}

// saveOften saves account 1 a hundred times in a transaction.
func (r *rig) saveOften(t *testing.T) {
	t.Helper()
	const revision = "SELECT cqrs_revision FROM accounts WHERE id = 1"
	before := number(t, r.master, revision)
	r.do(t, func(ctx context.Context, tx *outbox.Tx) error {
		for i := range 100 {
			if err := r.put(ctx, tx, 1, fmt.Sprint("save ", i)); err != nil {
				return err
			}
		}
		return nil
	})
	if have := number(t, r.master, revision); have != before+1 {
		t.Errorf("revision %d after %d, want one more", have, before)
	}
	r.caughtUp(t)
	if n := number(t, r.replica, "SELECT count(*) FROM account_ref WHERE account_id = 1 AND title = 'save 99'"); n != 1 {
		t.Error("account 1 is not as it was saved last")
	}
}
