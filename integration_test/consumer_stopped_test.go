package integration_test

import "testing"

// A consumer that is asked to stop finishes its transaction. What it has not
// begun with goes back to the queue.
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
	c := r.startConsumer(t)
	w.stop()
	r.caughtUp(t)

	// Now it is asked in a transaction, with more messages in hand than fit into
	// the next, each the last of its key.
	unlock := r.lockReplica(t)
	const rows = 2500
	r.createMany(t, rows)
	r.awaitWaiting(t)
	until(t, "the consumer has messages in hand", func() bool { return r.depth(t) < rows-1000 })
	c.cancel()
	unlock()
	c.stop(t)
	r.startConsumer(t)
	r.settled(t)
}
