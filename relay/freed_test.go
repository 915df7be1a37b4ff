package relay_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/relay"
)

// A key goes on when the message that it waits for is taken away, whenever that would
// have been tried again; and what is put back goes behind.
func TestKeyGoesOnWithoutWhatWasTakenAway(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.put(t, "a1", "a2", "b1", "b2")
		at := map[relay.Dialect]string{relay.Postgres: "2099-01-01", relay.MySQL: "2099-01-01", relay.SQLite: "2099-01-01 00:00:00.000000+00:00"}[m.dialect]
		if _, err := m.ExecContext(t.Context(), columns(`INSERT INTO outbox_failures (outbox_id, attempts, last_error, retry_at)
			SELECT min(id), 20, 'refused', '`+at+`' FROM outbox GROUP BY key`, m.dialect)); err != nil {
			t.Fatal(err)
		}
		pub := &recorder{}
		r, _ := m.start(t, pub, relay.Config{})
		eventually(t, "both keys are known to wait", func() bool { return r.Stats().Blocked == 2 })
		admin := m.admin(t)
		failing, err := admin.Failures(t.Context(), 0, 10)
		if err != nil || len(failing) != 2 || failing[0].Key != "a" {
			t.Fatalf("failing are %+v, %v; want a's and b's", failing, err)
		}
		if n, err := admin.GiveUpFailures(t.Context(), failing[0].ID); err != nil || n != 1 {
			t.Errorf("gave %d up, %v; want 1", n, err)
		}
		if n, err := admin.RetryDead(t.Context(), failing[0].ID); err != nil || n != 1 {
			t.Errorf("put %d back, %v; want 1", n, err)
		}
		eventually(t, "a's are sent", func() bool { return !slices.Contains(m.pendingKeys(t), "a") })
		if n, err := admin.PurgeFailures(t.Context(), failing[1].ID); err != nil || n != 1 {
			t.Errorf("purged %d, %v; want 1", n, err)
		}
		m.drained(t)
		// A read of the table may see a row once more while its deletion is under way.
		if diff := cmp.Diff([]string{"account/a2", "account/a1", "account/b2"}, slices.Compact(pub.all())); diff != "" {
			t.Errorf("messages on the wire, repeats aside (-want +have):\n%s", diff)
		}
	})
}

// A message that is given up while it is on its way leaves no failure behind, although
// the broker refuses it then.
func TestGiveUpWhatIsOnItsWay(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.put(t, "a1")
		admin := m.admin(t)
		id := make(chan int64, 1)
		pub := &recorder{fate: func(string) error {
			select {
			case id := <-id:
				if n, err := admin.GiveUpFailures(t.Context(), id); err != nil || n != 1 {
					t.Errorf("gave %d up, %v; want 1", n, err)
				}
			default:
			}
			return refusal{}
		}}
		r, stop := m.start(t, pub, relay.Config{})
		eventually(t, "it is failing", func() bool {
			failing, err := admin.Failures(t.Context(), 0, 10)
			if err != nil {
				t.Fatal(err)
			}
			if len(failing) == 1 {
				id <- failing[0].ID
			}
			return len(failing) == 1
		})
		eventually(t, "the key is free", func() bool { return len(m.pendingKeys(t)) == 0 && r.Stats().Blocked == 0 })
		stop()
		if failures, dead := m.count(t, "outbox_failures"), m.count(t, "outbox_dead"); failures != 0 || dead != 1 {
			t.Errorf("%d failures and %d dead letters are left, want the letter alone", failures, dead)
		}
	})
}
