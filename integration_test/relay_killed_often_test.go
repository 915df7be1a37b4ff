package integration_test

import (
	"math/rand/v2"
	"testing"
)

// Whatever a relay was doing when it died, the next one finds all in the table.
func TestRelayKilledAtTenRandomMoments(t *testing.T) {
	t.Parallel()
	r := newRig(t, account())
	seed := rand.Uint64()
	t.Logf("moments with seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	r.startConsumer(t)
	w := r.startWriters(t)
	for range 10 {
		re := r.startRelayProcess(t, r.brokerURL)
		goal := r.wire.count() + 1 + rng.IntN(500)
		until(t, "messages come out of the relay", func() bool { return r.wire.count() >= goal })
		re.kill(t)
	}
	w.stop()
	r.startRelayProcess(t, r.brokerURL)
	t.Logf("%d messages were published twice", repeats(r.settled(t)))
}
