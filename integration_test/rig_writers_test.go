package integration_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/lockstep-go/lockstep/outbox"
)

// writers change accounts at random, side by side, until they are stopped.
type writers struct {
	quit  chan struct{}
	group sync.WaitGroup
	once  sync.Once
}

const (
	writersCount = 4
	writersKeys  = 40 // few, so that the writers meet
)

// startWriters starts them. Their transactions change and delete one to three
// accounts each, and some roll back.
func (r *rig) startWriters(t *testing.T) *writers {
	t.Helper()
	w := &writers{quit: make(chan struct{})}
	seed := rand.Uint64()
	t.Logf("writers with seed %d", seed)
	for i := range writersCount {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		w.group.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-w.quit:
					return
				default:
				}
				if err := r.writeAtRandom(t.Context(), rng, fmt.Sprintf("writer %d, %d", i, n)); err != nil {
					t.Errorf("writer: %v", err)
					return
				}
			}
		})
	}
	t.Cleanup(w.stop)
	return w
}

func (w *writers) stop() {
	w.once.Do(func() { close(w.quit) })
	w.group.Wait()
}

var errChangedMind = errors.New("changed my mind")

func (r *rig) writeAtRandom(ctx context.Context, rng *rand.Rand, name string) error {
	keys := rng.Perm(writersKeys)[:1+rng.IntN(3)]
	slices.Sort(keys) // so that writers do not wait for each other in a circle
	err := r.ob.InTx(ctx, r.master, func(ctx context.Context, tx *outbox.Tx) error {
		for _, k := range keys {
			key := int64(k) + 1
			var err error
			if rng.IntN(6) == 0 {
				err = tx.Delete(ctx, r.id("account"), key)
			} else {
				err = r.put(ctx, tx, key, name)
			}
			if err != nil {
				return err
			}
		}
		if rng.IntN(10) == 0 {
			return errors.Join(tx.Flush(ctx), errChangedMind)
		}
		return nil
	})
	if errors.Is(err, errChangedMind) || errors.As(err, new(*outbox.NotFoundError)) { // nothing there to delete
		return nil
	}
	return err
}

// progress waits until the tap has a hundred messages more.
func (r *rig) progress(t *testing.T) {
	t.Helper()
	goal := r.wire.count() + 100
	until(t, "messages come out of the relay", func() bool { return r.wire.count() >= goal })
}
