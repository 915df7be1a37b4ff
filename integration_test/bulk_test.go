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
	keys := make([]any, rows)
	for i := range keys {
		keys[i] = i + 1
	}
	r.do(t, func(ctx context.Context, tx *outbox.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO accounts (id, name, balance)
SELECT i, 'account ' || i, i / 7.0 FROM generate_series(1, $1::int) i`, rows)
		if err != nil {
			return err
		}
		return tx.Saved(r.id("account"), keys...)
	})
	events := r.settled(t)
	if len(events) != rows {
		t.Errorf("%d events, want %d", len(events), rows)
	}
	for i, w := range events {
		if want := fmt.Sprint(keys[i]); w.key != want {
			t.Fatalf("event %d is of account %s, want %s: the order in which they were marked", i, w.key, want)
		}
	}
}
