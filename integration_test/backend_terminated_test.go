package integration_test

import (
	"database/sql"
	"testing"
)

// All connections of a service to its database are terminated at once, again and
// again.
func TestBackendsTerminated(t *testing.T) {
	t.Parallel()
	r := newRig(t, account())
	re := r.startRelay(t)
	c := r.startConsumer(t)
	w := r.startWriters(t)
	for range 5 {
		r.progress(t)
		r.terminate(t, r.master)
		before := r.newest(t)
		until(t, "the consumer applies messages", func() bool { return r.newest(t) > before+2 })
		r.terminate(t, r.replica)
	}
	r.progress(t)
	w.stop()
	r.caughtUp(t)
	spared(t, re, c)
	missedNone(t, c)
	t.Logf("%d messages were published twice", repeats(r.settled(t)))
}

// terminate ends the services' connections to the server.
func (r *rig) terminate(t *testing.T, db *sql.DB) {
	t.Helper()
	const backends = `SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE $1`
	until(t, "a connection is terminated", func() bool { return number(t, db, backends, r.suffix+"%") > 0 })
}
