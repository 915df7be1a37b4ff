package relay_test

import (
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/relay"
)

// A key that waits for a refused message does so in an outage, too, however often the
// relay begins anew and has not read yet which keys those are.
func TestBlockedKeysAreToldInAnOutage(t *testing.T) {
	t.Parallel()
	db, _ := testdb.SQLite(t)
	m := migrated(t, db, relay.SQLite)
	m.put(t, "a1")
	r, _ := m.start(t, &recorder{fate: func(string) error { return refusal{} }}, relay.Config{MaxAttempts: 1000})
	eventually(t, "the message is refused", func() bool { return r.Stats().Blocked == 1 && m.count(t, "outbox_failures") == 1 })
	if _, err := db.ExecContext(t.Context(), `ALTER TABLE outbox_failures RENAME TO away`); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the relay pauses", func() bool {
		if n := r.Stats().Blocked; n != 1 {
			t.Fatalf("%d keys are blocked, want 1", n)
		}
		return r.Stats().Pauses == 1
	})
	for until := time.Now().Add(time.Second); time.Now().Before(until); <-time.After(time.Millisecond) {
		if n := r.Stats().Blocked; n != 1 {
			t.Fatalf("in the outage %d keys are blocked, want 1", n)
		}
	}
	if _, err := db.ExecContext(t.Context(), `ALTER TABLE away RENAME TO outbox_failures`); err != nil {
		t.Fatal(err)
	}
	refused := r.Stats().Refused
	eventually(t, "it goes on", func() bool {
		if n := r.Stats().Blocked; n != 1 {
			t.Fatalf("after the outage %d keys are blocked, want 1", n)
		}
		return r.Stats().Refused > refused
	})
}
