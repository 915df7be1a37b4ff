package integration_test

import (
	"database/sql"
	"testing"
)

// A transaction that has written an event stays open for the whole run, and so
// does a snapshot from before it. They delay nothing but themselves.
func TestTransactionOpenForTheWholeRun(t *testing.T) {
	t.Parallel()
	r := newRig(t, account())
	reader, err := r.master.BeginTx(t.Context(), &sql.TxOptions{Isolation: sql.LevelRepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Rollback() }()
	var n int
	if err := reader.QueryRowContext(t.Context(), "SELECT count(*) FROM outbox").Scan(&n); err != nil {
		t.Fatal(err)
	}
	late := r.open(t, 1001)
	r.startRelay(t)
	r.startConsumer(t)
	w := r.startWriters(t)
	for range 5 {
		r.progress(t)
	}
	w.stop()
	r.caughtUp(t) // the open transaction's account is not the master's yet
	commit(t, late)
	events := r.settled(t)
	if last := events[len(events)-1]; last.key != "1001" {
		t.Errorf("the last event is of account %s, want 1001, which was committed last", last.key)
	}
}
