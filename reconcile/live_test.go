package reconcile_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/broker/memory"
	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/internal/dialect"
	"github.com/lockstep-go/lockstep/outbox"
	"github.com/lockstep-go/lockstep/reconcile"
	"github.com/lockstep-go/lockstep/relay"
)

// Beside live writes, with a relay and a consumer at work, rows are sent again over
// and over; in the end the replica is the master.
func TestSyncBesideLiveWrites(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, r *rig) {
		b, err := memory.Open(t.Context(), memory.Config{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = b.Close() })
		c, err := consumer.New(r.replica.DB, b, consumer.Config{Queue: "billing"})
		if err == nil {
			err = c.Table("account", r.replica.Consumer.Tables()["account"])
		}
		if err == nil {
			err = b.Bind(t.Context(), "billing", "account", "cqrs.billing.account")
		}
		if err != nil {
			t.Fatal(err)
		}
		forward, err := relay.New(r.master.DB, b, relay.Config{Poll: 10 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		running, stop := context.WithCancel(t.Context())
		var both sync.WaitGroup
		for what, run := range map[string]func(context.Context) error{"relay": forward.Run, "consumer": c.Run} {
			both.Go(func() {
				if err := run(running); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			})
		}
		defer both.Wait()
		defer stop()

		var work sync.WaitGroup
		for i := range 2 {
			random := rand.New(rand.NewPCG(rand.Uint64(), uint64(i)))
			work.Go(func() {
				for n := range 60 {
					if err := r.change(random.IntN(8)+1, fmt.Sprintf("w%d %d", i, n)); err != nil {
						t.Errorf("write: %v", err)
						return
					}
				}
			})
		}
		work.Go(func() {
			for range 6 {
				if _, err := r.master.Outbox.Sync(t.Context(), r.master.DB, "account", outbox.All, "billing", outbox.SyncChunk(3)); err != nil {
					t.Errorf("sync: %v", err)
				}
			}
		})
		work.Wait()
		r.settled()
	})
}

// change deletes a row, or makes or changes it, again after a deadlock.
func (r *rig) change(id int, name string) error {
	for {
		err := r.master.Outbox.InTx(r.t.Context(), r.master.DB, func(ctx context.Context, tx *outbox.Tx) error {
			done, err := tx.ExecContext(ctx, fmt.Sprintf(`UPDATE accounts SET name = '%s' WHERE id = %d`, name, id))
			if err != nil {
				return err
			}
			there, err := done.RowsAffected()
			switch {
			case err != nil:
				return err
			case there == 1 && len(name)%4 == 0:
				return tx.Delete(ctx, "account", id)
			case there == 0:
				if _, err := tx.ExecContext(ctx, fmt.Sprintf(`INSERT INTO accounts (id, name) VALUES (%d, '%s')`, id, name)); err != nil {
					return err
				}
			}
			return tx.Saved("account", id)
		})
		var missing *outbox.NotFoundError
		if err != nil && (dialect.Classify(err) != dialect.Outage || errors.As(err, &missing)) {
			continue // another writer was faster
		}
		return err
	}
}

// settled waits until nothing differs any more.
func (r *rig) settled() {
	r.t.Helper()
	deadline := time.NewTimer(2 * time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		pending := r.int(r.master.DB, `SELECT count(*) FROM outbox`)
		s, err := reconcile.Compare(r.t.Context(), r.master, r.replica, "account", reconcile.CompareOptions{Filter: outbox.All, Fields: true})
		if err == nil && pending == 0 && s.Differences() == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			r.t.Fatalf("after two minutes %d events are pending and %+v (%v)", pending, s, err)
		}
	}
}
