package integration_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/lockstep-go/lockstep/outbox"
)

func TestTenThousandRowsInOneTransaction(t *testing.T) {
	t.Parallel()
	r := newRig(t, account())
	r.startRelay(t)
	r.startConsumer(t)
	const rows = 10_000
	r.createMany(t, rows)
	events := r.settled(t)
	if len(events) != rows {
		t.Errorf("%d events, want %d", len(events), rows)
	}
	for i, w := range events {
		if want := fmt.Sprint(firstOfMany + i); w.key != want {
			t.Fatalf("event %d is of account %s, want %s: the order in which they were marked", i, w.key, want)
		}
	}
}

const firstOfMany = 1001

// createMany makes n accounts in one transaction.
func (r *rig) createMany(t *testing.T, n int) {
	t.Helper()
	keys := make([]any, n)
	for i := range keys {
		keys[i] = firstOfMany + i
	}
	r.do(t, func(ctx context.Context, tx *outbox.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO accounts (id, name, balance)
SELECT i, 'account ' || i, i / 7.0 FROM generate_series($1::int, $2::int) i`, firstOfMany, firstOfMany+n-1)
		if err != nil {
			return err
		}
		return tx.Saved(r.id("account"), keys...)
	})
}
