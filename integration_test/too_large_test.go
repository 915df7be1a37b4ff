package integration_test

import (
	"context"
	"strings"
	"testing"

	"github.com/lockstep-go/lockstep/outbox"
)

// The broker takes no message of more than a tenth of a megabyte, and closes the
// channel of who sends one.
func TestMessageOverTheBrokersLimit(t *testing.T) {
	t.Parallel()
	n := newNode(t, "max_message_size = 100000")
	r := newRigOn(t, nil, n, account())
	re := r.startRelay(t)
	c := r.startConsumer(t)
	w := r.startWriters(t)
	r.progress(t)
	const key = 1001
	r.do(t, func(ctx context.Context, tx *outbox.Tx) error { return r.put(ctx, tx, key, "small") })
	r.do(t, func(ctx context.Context, tx *outbox.Tx) error {
		return r.put(ctx, tx, key, strings.Repeat("large ", 30_000))
	})
	until(t, "the message is dead", func() bool { return number(t, r.master, "SELECT count(*) FROM outbox_dead") > 0 })
	r.progress(t) // others go on
	until(t, "the small one is applied", func() bool {
		return number(t, r.replica, "SELECT count(*) FROM account_ref WHERE account_id = $1", key) == 1
	})
	if have := number(t, r.replica, "SELECT cqrs_revision FROM account_ref WHERE account_id = $1", key); have != 1 {
		t.Errorf("the replica has revision %d of the account, want 1, for the next cannot be sent", have)
	}
	r.do(t, func(ctx context.Context, tx *outbox.Tx) error { return r.put(ctx, tx, key, "small again") })
	r.progress(t)
	w.stop()
	r.caughtUp(t)
	if s := re.Stats(); s.Dead != 1 || s.Refused > 0 {
		t.Errorf("%d messages dead and %d attempts spent, want 1 and no more", s.Dead, s.Refused)
	}
	if s := c.Stats(); s.Retried+s.Dead > 0 {
		t.Errorf("%d retries and %d dead letters at the consumer, want none", s.Retried, s.Dead)
	}
	r.wantBuried = 1
	r.settled(t)
}
