package integration_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/outbox"
)

// The replica's titles are shorter than the master's names may be.
func TestMessageThatDoesNotFit(t *testing.T) {
	t.Parallel()
	narrow := account()
	narrow.columns[1].refType = "varchar(20) NOT NULL"
	const retries = 4 // so that a machine that halts for two of them does not look as if the others had waited
	narrow.retries = retries
	r := newRig(t, narrow)
	r.startRelay(t)
	c := r.startConsumer(t)
	tooLong := strings.Repeat("long ", 10)
	const rows, misfit = 50, 7
	r.do(t, func(ctx context.Context, tx *outbox.Tx) error {
		for key := range int64(rows) {
			name := fmt.Sprint("short ", key)
			if key == misfit {
				name = tooLong
			}
			if err := r.put(ctx, tx, key, name); err != nil {
				return err
			}
		}
		return nil
	})
	until(t, "the others are applied", func() bool { return r.applied(t) == rows-1 })
	if c.Stats().Dead > 0 {
		t.Errorf("the others waited for the message that does not fit")
	}
	until(t, "the message that does not fit is given up", func() bool { return r.dead.count() > 0 })
	if have := c.Stats().Retried; have != retries {
		t.Errorf("it was tried again %d times, want %d", have, retries)
	}
	for _, m := range r.dead.all(t) {
		ev, err := event.Decode(m.Payload)
		if err != nil {
			t.Fatal(err)
		}
		if reason := m.Metadata.Get(event.HeaderReason); reason != "retries" || string(ev.Key) != fmt.Sprint(misfit) || ev.Retries != retries {
			t.Errorf("dead letter: reason %q in %s", reason, m.Payload)
		}
	}

	// The master's next revision fits, and the replica is whole again.
	r.do(t, func(ctx context.Context, tx *outbox.Tx) error { return r.put(ctx, tx, misfit, "short enough") })
	r.wantDead = 1
	r.unfit = func(w wired) bool { return strings.Contains(string(w.msg.Payload), tooLong) }
	r.settled(t)
}
