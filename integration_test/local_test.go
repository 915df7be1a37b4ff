package integration_test

import (
	"context"
	"testing"

	"github.com/lockstep-go/lockstep/outbox"
)

// All without a server: SQLite on both sides, and JetStream inside the process.
func TestSQLiteAndEmbeddedJetStream(t *testing.T) {
	t.Parallel()
	r := newLocalRig(t, account())
	r.startRelay(t)
	c := r.startConsumer(t)
	r.create(t)
	r.update(t)
	r.saveOften(t)
	r.rollBack(t)
	r.remove(t)
	c.stop(t) // its queue keeps what comes meanwhile
	r.do(t, func(ctx context.Context, tx *outbox.Tx) error { return r.put(ctx, tx, 2, "Bob II") })
	r.startConsumer(t)
	r.createAgain(t)
	r.settled(t)
}
