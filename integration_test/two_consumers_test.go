package integration_test

import (
	"math/rand/v2"
	"os"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Two processes consume one queue, each with its own connection, and die in turns
// under load. Which of them gets an event is left to the broker, so revisions of a key
// come to both, and decide. LOCKSTEP_TEST_SHARED sets how long it goes on.
func TestTwoConsumersDieInTurns(t *testing.T) {
	t.Parallel()
	last := 20 * time.Second
	if text := os.Getenv("LOCKSTEP_TEST_SHARED"); text != "" {
		var err error
		if last, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	seed := rand.Uint64()
	t.Logf("moments with seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	r := newRig(t, account())
	r.pace = 15 * time.Millisecond
	r.startRelay(t)
	consumers := []*outside{r.startConsumerProcess(t), r.startConsumerProcess(t)}
	w := r.startWriters(t)
	kills := 0
	for begun := time.Now(); time.Since(begun) < last; kills++ {
		until(t, "both consume", func() bool { return r.consumers(t) == 2 })
		before := r.newest(t)
		until(t, "events are applied", func() bool { return r.newest(t) > before })
		<-time.After(time.Duration(rng.Int64N(int64(1500 * time.Millisecond))))
		consumers[kills%2].kill(t)
		consumers[kills%2] = r.startConsumerProcess(t)
	}
	w.stop()
	t.Logf("%d consumers were killed", kills)
	r.settled(t)
}

// consumers returns how many the replica's queue has.
func (r *rig) consumers(t *testing.T) (n int) {
	t.Helper()
	r.admin.do(t, func(ch *amqp.Channel) error {
		q, err := ch.QueueDeclarePassive(r.queue, true, false, false, false, nil)
		n = q.Consumers
		return err
	})
	return n
}
