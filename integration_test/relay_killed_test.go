package integration_test

import "testing"

// A relay that dies leaves rows whose messages the broker may have or not. Only
// if none of them was deleted too early nothing is missing.
func TestRelayKilledInMidFlow(t *testing.T) {
	t.Parallel()
	r := newRig(t, account())
	way := newProxy(t, r.brokerURL)
	r.startConsumer(t)
	w := r.startWriters(t)
	var re *outside
	for term := range int64(3) {
		re = r.startRelayProcess(t, way.url)
		until(t, "the relay gets the lease", func() bool {
			return number(t, r.master, "SELECT coalesce(max(term), 0) FROM outbox_leases") > term
		})
		r.progress(t)
		if term < 2 {
			re.kill(t)
		}
	}
	// Now it dies while messages are on their way that will never arrive.
	way.swallow()
	way.awaitSwallowed(t)
	re.kill(t)
	w.stop()
	way.mend()
	r.startRelayProcess(t, way.url)
	t.Logf("%d messages were published twice", repeats(r.settled(t)))
}
