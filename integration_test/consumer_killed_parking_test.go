package integration_test

import (
	"context"
	"errors"
	"testing"

	"github.com/lockstep-go/lockstep/outbox"
)

// A consumer dies while messages wait in its memory for the row that theirs refer to: they
// come again, wait again, and are applied when it comes.
func TestConsumerKilledWhileMessagesAreParked(t *testing.T) {
	t.Parallel()
	purse := entity{name: "purse", table: "purses", ref: "purse_ref", columns: []column{
		{"id", "bigint PRIMARY KEY", "purse_id", ""},
		{"owner", "bigint REFERENCES accounts (id)", "belongs_to", "bigint REFERENCES account_ref (account_id)"},
	}}
	r := newRig(t, account(), purse)
	r.startRelay(t)
	c := r.startConsumerProcess(t)
	const purses = 20
	r.do(t, func(ctx context.Context, tx *outbox.Tx) error { // the account is not marked yet
		_, err := tx.ExecContext(ctx, `INSERT INTO accounts (id, name) VALUES (1, 'comes late');
			INSERT INTO purses (id, owner) SELECT i, 1 FROM generate_series(1, 20) i`)
		for key := range purses {
			err = errors.Join(err, tx.Saved(r.id("purse"), key+1))
		}
		return err
	})
	parked := func(c *outside) {
		t.Helper()
		until(t, "the consumer holds all messages", func() bool {
			return number(t, r.master, "SELECT count(*) FROM outbox") == 0 && r.depth(t) == 0
		})
		c.logs.await(t, "a message waits for the row it refers to", 0)
	}
	parked(c)
	c.kill(t)
	until(t, "they are in the queue again", func() bool { return r.depth(t) == purses })
	parked(r.startConsumerProcess(t))
	if n := number(t, r.replica, "SELECT count(*) FROM purse_ref"); n > 0 {
		t.Errorf("%d purses are in the replica, without the account they belong to", n)
	}
	r.do(t, func(ctx context.Context, tx *outbox.Tx) error { return r.put(ctx, tx, 1, "has come") })
	r.settled(t)
}
