package relay_test

import (
	"errors"
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/relay"
)

// The age of the oldest message is that of the first in the table, by the database's
// clock, whoever asks.
func TestAgeOfTheOldest(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		confirm := make(chan struct{})
		r, _ := m.start(t, &recorder{delay: confirm}, relay.Config{Look: 10 * time.Millisecond})
		t.Cleanup(func() { close(confirm) }) // before the relay is stopped
		eventually(t, "the relay has looked", func() bool { return !r.Stats().Outbox.At.IsZero() })
		if o := r.Stats().Outbox; o.Pending != 0 || o.Oldest != 0 {
			t.Errorf("of an empty outbox it knows %+v", o)
		}
		m.put(t, "a1", "b1", "c1")
		ages := map[relay.Dialect]string{
			relay.Postgres: "clock_timestamp() - interval '1 hour'", relay.MySQL: "utc_timestamp(6) - INTERVAL 1 HOUR",
			relay.SQLite: "strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now', '-1 hour')",
		}
		if _, err := m.ExecContext(t.Context(), `UPDATE outbox SET created_at = `+ages[m.dialect]+columns(` WHERE key = 'a'`, m.dialect)); err != nil {
			t.Fatal(err)
		}
		overview, err := m.admin(t).Overview(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the relay has counted them", func() bool { return r.Stats().Outbox.Pending == 3 })
		eventually(t, "the relay knows how old they are", func() bool { return r.Stats().Outbox.Oldest >= time.Hour })
		for _, age := range []time.Duration{overview.Oldest, r.Stats().Outbox.Oldest} {
			if age < time.Hour-time.Millisecond || age > time.Hour+patience { // SQLite rounds
				t.Errorf("the oldest is %v old, want an hour", age)
			}
		}
		if overview.Pending != 3 {
			t.Errorf("%d are pending, want 3", overview.Pending)
		}
	})
}

// While the broker is away nothing waits for a refused message: the relay stalls, and
// says so for as long as that lasts.
func TestStalledWhileTheBrokerIsAway(t *testing.T) {
	t.Parallel()
	db, _ := testdb.Postgres(t)
	m := migrated(t, db, relay.Postgres)
	m.put(t, "a1", "a2", "b1")
	away := &recorder{fate: func(string) error { return errors.New("the broker is away") }}
	r, _ := m.start(t, away, relay.Config{Look: 5 * time.Millisecond})
	stalled := func() error { return r.Stats().Stalled(time.Now(), 500*time.Millisecond) }
	eventually(t, "the relay is not healthy", func() bool { return stalled() != nil })
	again := len(away.all())
	eventually(t, "it has tried again, twice", func() bool {
		if s := r.Stats(); stalled() == nil || s.Blocked != 0 || s.Outbox.Waiting != 0 {
			t.Fatalf("stalled: %v; %d keys and %d messages wait for one that was refused, want none", stalled(), s.Blocked, s.Outbox.Waiting)
		}
		return len(away.all()) >= again+6
	})
}
