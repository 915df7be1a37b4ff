package integration_test

import (
	"math/rand/v2"
	"testing"
)

// Whatever a relay was doing when it died, the next one finds all in the table.
// Every other time its machine dies with it, and what was on the way is lost.
func TestRelayKilledAtTenRandomMoments(t *testing.T) {
	t.Parallel()
	r := newRig(t, account())
	way := newProxy(t, r.brokerURL)
	seed := rand.Uint64()
	t.Logf("moments with seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	r.startConsumer(t)
	w := r.startWriters(t)
	for round := range 10 {
		re := r.startRelayProcess(t, way.url)
		goal := r.wire.count() + 1 + rng.IntN(500)
		until(t, "messages come out of the relay", func() bool { return r.wire.count() >= goal })
		switch round % 4 {
		case 1:
			way.swallow()
			until(t, "the relay sends messages", func() bool { return way.swallowed.Load() > 0 })
		case 3: // all that it may do without hearing from the broker is done
			way.swallow()
			way.awaitSwallowed(t)
		}
		re.kill(t)
		way.mend()
	}
	w.stop()
	r.startRelayProcess(t, way.url)
	t.Logf("%d messages were published twice", repeats(r.settled(t)))
}
