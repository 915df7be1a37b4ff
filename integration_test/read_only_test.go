package integration_test

import "testing"

// The database becomes a standby, as after a failover that the services did not
// follow: it reads, and refuses to write. The relay cannot delete what it would
// publish, and the consumer cannot apply; neither takes it for the messages' fault.
func TestDatabaseThatOnlyReads(t *testing.T) {
	t.Parallel()
	server := newCluster(t)
	r := newRigOn(t, server, nil, account())
	r.mayFail.Store(true)
	re := r.startRelay(t)
	c := r.startConsumer(t)
	w := r.startWriters(t)
	for range 2 {
		r.progress(t)
		r.lockReplica(t) // until the server goes, so that the consumer has something to apply then
		r.awaitWaiting(t)
		r.progress(t)
		deletes, applies := server.logs.says(noDelete), server.logs.says(noApply)
		server.demote(t)
		server.logs.await(t, noDelete, deletes)
		server.logs.await(t, noApply, applies)
		server.promote(t)
	}
	r.progress(t)
	w.stop()
	r.reconnect()
	r.caughtUp(t)
	spared(t, re, c)
	missedNone(t, c)
	t.Logf("%d messages were published twice", repeats(r.settled(t)))
}

// What PostgreSQL says to the relay and to the consumer.
const (
	noDelete = "cannot execute DELETE in a read-only transaction"
	noApply  = "cannot set transaction read-write mode during recovery"
)
