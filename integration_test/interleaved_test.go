package integration_test

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/lockstep-go/lockstep/outbox"
)

// Ids are drawn in one order and committed in another, while the relay's position
// moves on. Some never come.
func TestIdsCommittedOutOfOrder(t *testing.T) {
	t.Parallel()
	r := newRig(t, account())
	r.startRelay(t)
	r.startConsumer(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	const openAtOnce, rounds, keys = 6, 300, 20
	busy := map[int64]*sql.Tx{} // by the account that it has locked
	end := func(key int64) {
		if rng.IntN(5) == 0 {
			if err := busy[key].Rollback(); err != nil {
				t.Fatal(err)
			}
		} else {
			commit(t, busy[key])
		}
		delete(busy, key)
	}
	anyBusy := func() (key int64) {
		for key = 1 + rng.Int64N(keys); busy[key] == nil; key = 1 + rng.Int64N(keys) {
		}
		return key
	}
	for round := range rounds {
		for len(busy) >= openAtOnce {
			end(anyBusy())
		}
		key := 1 + rng.Int64N(keys)
		if busy[key] != nil {
			continue
		}
		busy[key] = r.open(t, key)
		// One that begins later and commits at once, so that the position moves.
		other := keys + 1 + rng.Int64N(keys)
		r.do(t, func(ctx context.Context, tx *outbox.Tx) error {
			return r.put(ctx, tx, other, fmt.Sprint("round ", round))
		})
	}
	for len(busy) > 0 {
		end(anyBusy())
	}
	r.settled(t)
}
