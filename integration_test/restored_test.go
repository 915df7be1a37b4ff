package integration_test

import (
	"bytes"
	"testing"
)

// The master is restored from a dump into a new server, whose transaction ids
// begin anew, with the lease and the position of a relay that is gone. What was
// pending is delivered, and what is written from then on.
func TestMasterRestoredFromADump(t *testing.T) {
	t.Parallel()
	old, renewed := newCluster(t), newCluster(t)
	r := newRigOn(t, old, nil, account())
	re := r.startRelay(t)
	r.startConsumer(t)
	w := r.startWriters(t)
	r.progress(t)
	re.stop(t)
	r.outboxFills(t)
	w.stop()
	const nextID = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
	before := number(t, r.master, nextID)
	renewed.restore(t, old.dump(t, "master"), "master")
	r.master, r.masterDSN = renewed.open(t, "master")
	if after := number(t, r.master, nextID); after >= before {
		t.Fatalf("transaction ids go on from %d to %d: the dump tests nothing", before, after)
	}
	r.startRelay(t)
	r.caughtUp(t)
	w = r.startWriters(t)
	r.progress(t)
	w.stop()
	r.settled(t)
}

// dump returns a database as SQL.
func (c *cluster) dump(t *testing.T, database string) []byte {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := c.run(c.program("pg_dump"), "--dbname", c.dsn("postgres", database))
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("pg_dump: %v\n%s", err, &errs)
	}
	return out.Bytes()
}

func (c *cluster) restore(t *testing.T, dump []byte, database string) {
	t.Helper()
	cmd := c.run(c.program("psql"), "--quiet", "--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--dbname", c.dsn("postgres", database))
	cmd.Stdin = bytes.NewReader(dump)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("psql: %v\n%s", err, out)
	}
}
