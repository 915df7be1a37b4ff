package integration_test

import "testing"

func TestConsumerStoppedInMidFlow(t *testing.T) {
	t.Parallel()
	r := newRig(t, account())
	r.startRelay(t)
	w := r.startWriters(t)
	for range 5 {
		c := r.startConsumer(t)
		until(t, "the consumer applies messages", func() bool { return c.Stats().Applied > 50 })
		c.stop(t)
		until(t, "the queue fills while no consumer runs", func() bool { return r.depth(t) > 50 })
	}
	r.startConsumer(t)
	w.stop()
	r.settled(t)
}
