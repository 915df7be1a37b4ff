package integration_test

import (
	"database/sql"
	"errors"
	"testing"

	"github.com/lib/pq"
)

// Others take all connections of the server, and the services lose theirs.
func TestConnectionsExhausted(t *testing.T) {
	t.Parallel()
	server := newCluster(t, "max_connections=30")
	r := newRigOn(t, server, nil, account())
	r.mayFail.Store(true)
	re := r.startRelay(t)
	c := r.startConsumer(t)
	w := r.startWriters(t)
	r.progress(t)
	unlock := lockReplica(t, server.openAs(t, "postgres", "replica")) // so that the consumer has something to apply then
	r.awaitWaiting(t)
	pauses := c.Stats().Pauses
	release := server.exhaust(t)
	r.logs.await(t, paused, 0)
	until(t, "the consumer pauses", func() bool { return c.Stats().Pauses > pauses })
	unlock()
	release()
	r.progress(t)
	w.stop()
	r.reconnect()
	r.caughtUp(t)
	spared(t, re, c)
	missedNone(t, c)
	t.Logf("%d messages were published twice", repeats(r.settled(t)))
}

// exhaust takes all connections, those of the services and writers included.
func (c *cluster) exhaust(t *testing.T) (release func()) {
	t.Helper()
	const others = `SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE usename = 'lockstep' AND application_name <> 'greedy'`
	db, err := sql.Open("postgres", c.dsn("lockstep", "postgres")+"&application_name=greedy")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	var taken []*sql.Conn
	grab := func() (full bool) {
		conn, err := db.Conn(t.Context())
		var refusal *pq.Error
		switch {
		case err == nil:
			taken = append(taken, conn)
		case errors.As(err, &refusal) && refusal.Code == "53300": // too_many_connections
			return true
		default:
			t.Fatal(err)
		}
		return false
	}
	until(t, "nobody else has a connection", func() bool {
		ended := number(t, c.admin, others)
		for !grab() {
		}
		return ended == 0
	})
	return func() {
		for _, conn := range taken {
			_ = conn.Close()
		}
		db.SetMaxIdleConns(0)
	}
}
