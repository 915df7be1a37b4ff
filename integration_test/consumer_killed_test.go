package integration_test

import (
	"testing"
	"time"
)

// A consumer that dies in a transaction has not acknowledged its messages, so
// the next one gets them.
func TestConsumerKilledInMidFlow(t *testing.T) {
	t.Parallel()
	r := newRig(t, account())
	r.startRelay(t)
	w := r.startWriters(t)
	c := r.startConsumerProcess(t)
	for range 2 {
		before := r.newest(t)
		until(t, "the consumer applies messages", func() bool { return r.newest(t) > before+2 })
		c.kill(t)
		c = r.startConsumerProcess(t)
	}
	w.stop()
	r.caughtUp(t)

	// Now it dies while its transaction waits, with the last message of each key.
	unlock := r.lockReplica(t)
	r.lastWord(t)
	r.awaitWaiting(t)
	until(t, "the consumer holds all messages", func() bool {
		return number(t, r.master, "SELECT count(*) FROM outbox") == 0 && r.depth(t) == 0
	})
	<-time.After(300 * time.Millisecond) // an acknowledgement that comes too early would arrive
	c.kill(t)
	unlock()
	r.startConsumerProcess(t)
	r.settled(t)
}
