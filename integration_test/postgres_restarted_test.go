package integration_test

import (
	"syscall"
	"testing"
)

// The databases of both sides are restarted: in order, and as after a crash,
// which takes back deletions in the outbox that had not reached the disk.
func TestPostgresRestartedFastAndImmediate(t *testing.T) {
	t.Parallel()
	server := newCluster(t)
	r := newRigOn(t, server, nil, account())
	r.mayFail.Store(true)
	// One of two relays works. At its start one wants its servers.
	r.startRelayProcess(t, r.brokerURL, "--lease", relayLease.String()).logs.await(t, "relaying", 0)
	re := r.startRelay(t)
	c := r.startConsumer(t)
	w := r.startWriters(t)
	for range 2 {
		for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT} {
			r.progress(t)
			server.restart(t, signal)
		}
	}
	r.progress(t)
	w.stop()
	r.reconnect()
	r.caughtUp(t)
	spared(t, re, c)
	missedNone(t, c)
	t.Logf("%d messages were published twice", repeats(r.settled(t)))
}

// reconnect drops the test's own connections, which a restart has broken.
func (r *rig) reconnect() {
	const standard = 2
	r.master.SetMaxIdleConns(0)
	r.replica.SetMaxIdleConns(0)
	r.master.SetMaxIdleConns(standard)
	r.replica.SetMaxIdleConns(standard)
}
