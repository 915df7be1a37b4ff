package integration_test

import "testing"

// A relay dies between the broker's confirmation and its deletion: every row is still
// there, and every message goes again.
func TestRelayKilledBetweenConfirmationAndDeletion(t *testing.T) {
	t.Parallel()
	r := newRig(t, account())
	r.startConsumer(t)
	r.lastWord(t)
	lock, err := r.master.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock.ExecContext(t.Context(), "SELECT id FROM outbox FOR UPDATE"); err != nil { // to read is allowed
		t.Fatal(err)
	}
	re := r.startRelayProcess(t, r.brokerURL)
	waiting := func() int64 {
		return number(t, r.master, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = $1", r.suffix+"_run")
	}
	until(t, "the relay is about to delete what was confirmed", func() bool { return r.wire.count() == writersKeys && waiting() > 0 })
	re.kill(t)
	// Its statement would still be carried out.
	if n := number(t, r.master, `SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1`, r.suffix+"_run"); n == 0 {
		t.Error("the relay had no connection")
	}
	until(t, "its deletion is gone", func() bool { return waiting() == 0 })
	if err := lock.Rollback(); err != nil {
		t.Fatal(err)
	}
	if n := number(t, r.master, "SELECT count(*) FROM outbox"); n != writersKeys {
		t.Errorf("%d rows are in the outbox, want all %d", n, writersKeys)
	}
	r.startRelayProcess(t, r.brokerURL, "--lease", relayLease.String()) // which it does not lose with messages under way
	if n := repeats(r.settled(t)); n != writersKeys {
		t.Errorf("%d messages were published twice, want all %d", n, writersKeys)
	}
}
