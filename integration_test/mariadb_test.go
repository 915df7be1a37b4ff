package integration_test

import "testing"

// MariaDB on both sides: writers side by side, a consumer that is away for a
// while, deletions and keys that come again.
func TestMariaDB(t *testing.T) {
	t.Parallel()
	r := newMariaDBRig(t, nil, account())
	r.startRelay(t)
	c := r.startConsumer(t)
	w := r.startWriters(t)
	r.progress(t)
	c.stop(t) // its queue keeps what comes meanwhile
	r.progress(t)
	r.startConsumer(t)
	r.progress(t)
	w.stop()
	t.Logf("%d transactions were deadlocked", w.deadlocks.Load())
	r.lastWord(t)
	r.settled(t)
}
