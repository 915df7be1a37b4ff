package integration_test

import "testing"

// One of two relays works. When it stops, the other one takes over, and since it
// was stopped cleanly, nothing is published twice.
func TestTwoRelaysAndTwoConsumers(t *testing.T) {
	t.Parallel()
	r := newRig(t, account())
	relays := []*relayInside{r.startRelay(t), r.startRelay(t)}
	consumers := []*consumerInside{r.startConsumer(t), r.startConsumer(t)}
	w := r.startWriters(t)
	r.progress(t)
	for round := range 3 {
		owner := 0
		until(t, "a relay works", func() bool {
			owner = 0
			if relays[1].Stats().Term > 0 {
				owner = 1
			}
			return relays[owner].Stats().Term > 0
		})
		if relays[1-owner].Stats().Term > 0 {
			t.Error("both relays think they own the outbox")
		}
		relays[owner].stop(t)
		consumers[round%2].stop(t)
		until(t, "the other relay takes over", func() bool { return relays[1-owner].Stats().Published > 0 })
		r.progress(t)
		relays[owner] = r.startRelay(t)
		consumers[round%2] = r.startConsumer(t)
	}
	r.progress(t)
	w.stop()
	if n := repeats(r.settled(t)); n > 0 {
		t.Errorf("%d messages were published twice, want none", n)
	}
}
