package integration_test

import (
	"context"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/outbox"
)

// The master's disk is full: a change and its event fail together, and what was
// committed before is sent.
func TestMasterDiskFull(t *testing.T) {
	t.Parallel()
	server := newClusterOn(t, newDisks(t))
	r := newRigOn(t, server, nil, account())
	r.mayFail.Store(true)
	re := r.startRelay(t)
	c := r.startConsumer(t)
	for range 2 {
		w := r.startWriters(t)
		r.progress(t)
		refused := server.logs.says(noExtension)
		free := server.fill(t, "master")
		until(t, "the disk is full", func() bool { return r.tryBulk(t) != nil && server.logs.says(noExtension) > refused })
		w.stop()
		r.caughtUp(t) // on a full disk
		free()
	}
	w := r.startWriters(t)
	r.progress(t)
	w.stop()
	r.caughtUp(t)
	spared(t, re, c)
	missedNone(t, c)
	if n := r.logs.says(paused); n > 6 { // a small batch may find room in between
		t.Errorf("the relay says %d times that it waits, want once an outage, or a few times", n)
	}
	t.Logf("%d messages were published twice", repeats(r.settled(t)))
}

// The replica's disk is full: the consumer waits, says so once, asks seldom, and goes
// on by itself when there is room. No message pays for it.
func TestReplicaDiskFull(t *testing.T) {
	t.Parallel()
	server := newClusterOn(t, newDisks(t))
	r := newRigOn(t, server, nil, account())
	re := r.startRelay(t)
	c := r.startConsumer(t)
	w := r.startWriters(t)
	r.progress(t)
	w.stop()
	r.caughtUp(t)
	free := server.fill(t, "replica")
	r.do(t, r.bulk)
	until(t, "the consumer pauses", func() bool { return c.Stats().Pauses > 0 })
	w = r.startWriters(t)
	asked, since := server.logs.says(noExtension), time.Now()
	<-time.After(2 * time.Second)
	n := server.logs.says(noExtension) - asked
	if passed := time.Since(since); float64(n) > 5*passed.Seconds() {
		t.Errorf("the consumer tried %d times in %v, want a few", n, passed)
	}
	r.progress(t) // of the relay, which has nothing to do with it
	free()
	r.progress(t)
	w.stop()
	r.caughtUp(t)
	spared(t, re, c)
	missedNone(t, c)
	if waits, over := r.logs.says(waitsForDatabase), r.logs.says("the database works again"); waits < 1 || waits > 8 || over != waits { // a small batch may find room in between
		t.Errorf("the consumer says %d times that it waits and %d times that it need not, want the same, once or a few times", waits, over)
	}
	if n := repeats(r.settled(t)); n > 0 {
		t.Errorf("%d messages were published twice, want none", n)
	}
}

const (
	// noExtension is what PostgreSQL says of a table that cannot grow.
	noExtension = "could not extend file"
	// waitsForDatabase is what a consumer says in an outage.
	waitsForDatabase = `msg="waiting for the database"`
)

// bulk makes accounts that need room: two megabytes, of other keys each time.
func (r *rig) bulk(ctx context.Context, tx *outbox.Tx) error {
	const many = 1000
	first := r.bulks.Add(1) * many
	for key := first; key < first+many; key++ {
		if err := r.put(ctx, tx, key, strings.Repeat(rand.Text(), 38)); err != nil {
			return err
		}
	}
	return nil
}

// tryBulk makes them where there is room.
func (r *rig) tryBulk(t *testing.T) error {
	t.Helper()
	return r.ob.InTx(t.Context(), r.master, r.bulk)
}
