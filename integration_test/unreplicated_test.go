package integration_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/outbox"
)

// Nobody replicates visits. First no queue is bound to them; then the replica's
// own is, as it stays after a replica was given up.
func TestEntityThatNobodyReplicates(t *testing.T) {
	t.Parallel()
	visit := entity{name: "visit", table: "visits", columns: []column{
		{field: "id", fieldType: "bigint PRIMARY KEY"}, {field: "page", fieldType: "text NOT NULL"},
	}}
	r := newRig(t, account(), visit)
	re := r.startRelay(t)
	r.startConsumer(t)
	const visits = 20
	r.visit(t, 0, visits)
	r.caughtUp(t)
	until(t, "the relay has counted them", func() bool { return re.Stats().Dropped >= visits }) // after it has deleted them
	if have := re.Stats().Dropped; have != visits {
		t.Errorf("the relay dropped %d messages, want %d", have, visits)
	}

	if err := r.control.Bind(t.Context(), r.queue, event.Topic(r.id("visit"))); err != nil {
		t.Fatal(err)
	}
	r.visit(t, visits, visits)
	r.caughtUp(t)
	until(t, "the messages nobody knows are dead letters", func() bool { return r.dead.count() >= visits })
	for i, m := range r.dead.all(t) {
		ev, err := event.Decode(m.Payload)
		if err != nil {
			t.Fatal(err)
		}
		if reason := m.Metadata.Get(event.HeaderReason); reason != "unknown" || ev.CQRSID != r.id("visit") || ev.Retries != 0 {
			t.Errorf("dead letter %d: reason %q in %s", i, reason, m.Payload)
		}
	}
	r.wantDead = visits
	r.settled(t)
}

// visit makes n visits and saves an account with each.
func (r *rig) visit(t *testing.T, first, n int) {
	t.Helper()
	for i := range n {
		r.do(t, func(ctx context.Context, tx *outbox.Tx) error {
			if _, err := tx.ExecContext(ctx, `INSERT INTO visits VALUES ($1, '/')`, first+i); err != nil {
				return err
			}
			if err := tx.Saved(r.id("visit"), first+i); err != nil {
				return err
			}
			return r.put(ctx, tx, int64(i%5)+1, fmt.Sprint("visit ", first+i))
		})
	}
}
