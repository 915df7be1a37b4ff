package integration_test

import (
	"syscall"
	"testing"
	"time"
)

// The databases of both sides are restarted: in order, killed, and as a server that
// only reads.
func TestMariaDBStoppedKilledAndReadOnly(t *testing.T) {
	t.Parallel()
	server := newMariaDB(t)
	r := newMariaDBRig(t, server, account())
	r.mayFail.Store(true)
	// One of two relays works. At its start one wants its servers.
	r.startRelayProcess(t, r.brokerURL, "--lease", relayLease.String()).logs.await(t, "relaying", 0)
	re := r.startRelay(t)
	c := r.startConsumer(t)
	w := r.startWriters(t)
	for range 2 {
		for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
			r.progress(t)
			server.restart(t, signal)
		}
	}
	r.progress(t)
	server.restart(t, syscall.SIGTERM, "--innodb-read-only")
	server.restart(t, syscall.SIGTERM)
	r.progress(t)
	w.stop()
	r.reconnect()
	r.caughtUp(t)
	spared(t, re, c)
	missedNone(t, c)
	t.Logf("%d messages were published twice", repeats(r.settled(t)))
}

// All connections of a service are killed at once, again and again.
func TestMariaDBConnectionsKilled(t *testing.T) {
	t.Parallel()
	server := newMariaDB(t)
	r := newMariaDBRig(t, server, account())
	re := r.startRelay(t)
	c := r.startConsumer(t)
	w := r.startWriters(t)
	for range 5 {
		r.progress(t)
		server.kill(t, "relay")
		before := r.newest(t)
		until(t, "the consumer applies messages", func() bool { return r.newest(t) > before+2 })
		server.kill(t, "consumer")
	}
	r.progress(t)
	w.stop()
	r.caughtUp(t)
	spared(t, re, c)
	missedNone(t, c)
	t.Logf("%d messages were published twice", repeats(r.settled(t)))
}

// The relay and the consumer of MariaDB's databases die, again and again.
func TestMariaDBServicesKilled(t *testing.T) {
	t.Parallel()
	r := newMariaDBRig(t, nil, account())
	r.pace = 5 * time.Millisecond
	way := newProxy(t, r.brokerURL)
	w := r.startWriters(t)
	for round := range 2 {
		re, c := r.startRelayProcess(t, way.url), r.startConsumerProcess(t)
		r.progress(t)
		before := r.newest(t)
		until(t, "the consumer applies messages", func() bool { return r.newest(t) > before+2 })
		if round%2 == 1 { // with messages on the way that will never arrive
			way.swallow()
			way.awaitSwallowed(t)
		}
		re.kill(t)
		c.kill(t)
		way.mend()
	}
	w.stop()
	r.startRelayProcess(t, way.url)
	r.startConsumerProcess(t)
	t.Logf("%d messages were published twice", repeats(r.settled(t)))
}

// First the master's database is full, where what a writer cannot store fails with its
// event; then the replica's, and the consumer waits until there is room.
func TestMariaDBFull(t *testing.T) {
	t.Parallel()
	limits := []string{
		"--innodb-file-per-table=0", "--innodb-data-file-path=ibdata1:12M:autoextend:max:40M",
		"--innodb-undo-tablespaces=2", // else it dies of having no room to roll back
	}
	server := newMariaDB(t, limits...)
	server.other = newMariaDB(t, limits...)
	r := newMariaDBRig(t, server, account())
	r.mayFail.Store(true)
	re := r.startRelay(t)
	c := r.startConsumer(t)
	w := r.startWriters(t)
	r.progress(t)
	free := server.fill(t)
	until(t, "a writer is refused", func() bool { return isFull(r.tryBulk(t)) })
	free()
	r.progress(t)
	w.stop()
	r.caughtUp(t)

	free = server.other.fill(t)
	until(t, "the consumer pauses", func() bool {
		if err := r.tryBulk(t); err != nil && !isFull(err) {
			t.Fatal(err)
		}
		return c.Stats().Pauses > 0
	})
	free()
	r.caughtUp(t)
	spared(t, re, c)
	missedNone(t, c)
	t.Logf("%d messages were published twice", repeats(r.settled(t)))
}
