package integration_test

import (
	"syscall"
	"testing"
)

// JetStream is stopped, and later killed, while messages are on their way from and to
// it. What it has confirmed it still has afterwards.
func TestJetStreamStoppedAndKilled(t *testing.T) {
	t.Parallel()
	n := newNATS(t)
	r := newNATSRig(t, n, account())
	re := r.startRelay(t, r.brokerURL+"&confirm_timeout=5s")
	c := r.startConsumer(t)
	w := r.startWriters(t)
	for range 2 {
		for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
			r.progress(t)
			n.stop(signal)
			r.outboxFills(t)
			n.start(t)
		}
	}
	r.progress(t)
	w.stop()
	r.caughtUp(t)
	until(t, "what was handed out before a stop has come again", func() bool { return r.depth(t) == 0 })
	spared(t, re, c)
	t.Logf("%d messages were published twice", repeats(r.settled(t)))
}
