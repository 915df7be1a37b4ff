package integration_test

import "testing"

// A relay that is asked to stop finishes what it has sent, so that nothing is
// published twice.
func TestRelayStoppedInMidFlow(t *testing.T) {
	t.Parallel()
	r := newRig(t, account())
	r.startConsumer(t)
	w := r.startWriters(t)
	for range 5 {
		re := r.startRelay(t)
		until(t, "the relay publishes messages", func() bool { return re.Stats().Published > 50 })
		re.stop(t)
		until(t, "the outbox fills while no relay runs", func() bool { return number(t, r.master, "SELECT count(*) FROM outbox") > 20 })
	}
	r.startRelay(t)
	w.stop()
	if n := repeats(r.settled(t)); n > 0 {
		t.Errorf("%d messages were published twice, want none", n)
	}
}
