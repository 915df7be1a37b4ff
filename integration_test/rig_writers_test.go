package integration_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/lib/pq"

	"github.com/lockstep-go/lockstep/outbox"
)

// writers change accounts at random, side by side, until they are stopped.
type writers struct {
	quit  chan struct{}
	ahead atomic.Int64 // events, as far as they were seen to be written
	// deadlocks are the transactions that the server gave up for others: those of
	// MySQL's also happen to writers that keep an order, for its inserts lock the gaps
	// around them.
	deadlocks atomic.Int64
	group     sync.WaitGroup
	once      sync.Once
}

const (
	writersCount = 4
	writersKeys  = 40 // few, so that the writers meet
	// mostAhead is how many events the writers may be ahead of the relay, so that a
	// long fault makes no backlog that only costs time.
	mostAhead = 2000
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
				if w.ahead.Load() > mostAhead+int64(r.wire.count()) && !r.filling.Load() {
					w.pause(breath)
					continue
				}
				if r.pace > 0 {
					w.pause(r.pace)
				}
				written, err := r.writeAtRandom(t.Context(), rng, fmt.Sprintf("writer %d, %d", i, n))
				switch {
				case err == nil:
					w.ahead.Add(int64(written))
				case r.mayFail.Load():
					w.pause(breath)
				case deadlocked(err):
					w.deadlocks.Add(1)
				default:
					t.Errorf("writer: %v", err)
					return
				}
			}
		})
	}
	t.Cleanup(w.stop)
	return w
}

// breath keeps a writer from spinning.
const breath = 20 * time.Millisecond

func (w *writers) pause(d time.Duration) {
	select {
	case <-w.quit:
	case <-time.After(d):
	}
}

func (w *writers) stop() {
	w.once.Do(func() { close(w.quit) })
	w.group.Wait()
}

func deadlocked(err error) bool {
	var m *mysql.MySQLError
	var p *pq.Error
	return errors.As(err, &m) && m.Number == 1213 || errors.As(err, &p) && p.Code == "40P01"
}

var errChangedMind = errors.New("changed my mind")

// writeAtRandom runs a transaction and returns how many events it has written.
func (r *rig) writeAtRandom(ctx context.Context, rng *rand.Rand, name string) (written int, err error) {
	keys := rng.Perm(writersKeys)[:1+rng.IntN(3)]
	slices.Sort(keys) // so that writers do not wait for each other in a circle
	err = r.ob.InTx(ctx, r.master, func(ctx context.Context, tx *outbox.Tx) error {
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
		return 0, nil
	}
	return len(keys), err
}

// publishes waits until a relay has published a hundred messages more, which ends
// a pause.
func (re *relayInside) publishes(t *testing.T) {
	t.Helper()
	goal := re.Stats().Published + 100
	until(t, "the relay publishes messages", func() bool { return re.Stats().Published >= goal })
}

// progress waits until the tap has a hundred messages more.
func (r *rig) progress(t *testing.T) {
	t.Helper()
	goal := r.wire.count() + 100
	until(t, "messages come out of the relay", func() bool { return r.wire.count() >= goal })
}

// outboxFills waits until the outbox has a few hundred messages. The writers do not
// wait meanwhile for what is in a broker that is away.
func (r *rig) outboxFills(t *testing.T) {
	t.Helper()
	r.filling.Store(true)
	defer r.filling.Store(false)
	until(t, "the outbox fills", func() bool { return number(t, r.master, "SELECT count(*) FROM outbox") >= 300 })
}

// lastWord saves all accounts that writers change in one transaction.
func (r *rig) lastWord(t *testing.T) {
	t.Helper()
	r.do(t, func(ctx context.Context, tx *outbox.Tx) error {
		for key := range int64(writersKeys) {
			if err := r.put(ctx, tx, key+1, "the last word"); err != nil {
				return err
			}
		}
		return nil
	})
}

// missedNone checks that the consumer met every revision, also of accounts that
// have newer ones by now. It can tell where the wire had them in order.
func missedNone(t *testing.T, c *consumerInside) {
	t.Helper()
	if n := c.Stats().Gaps; n > 0 {
		t.Errorf("the consumer missed %d revisions, want none", n)
	}
}

// spared checks that an outage cost no attempts and no messages.
func spared(t *testing.T, re *relayInside, c *consumerInside) {
	t.Helper()
	if s := re.Stats(); s.Refused+s.Dead > 0 {
		t.Errorf("the outage cost %d attempts and %d messages at the relay, want none", s.Refused, s.Dead)
	}
	if s := c.Stats(); s.Retried+s.Dead > 0 {
		t.Errorf("the outage cost %d retries and %d dead letters at the consumer, want none", s.Retried, s.Dead)
	}
}
