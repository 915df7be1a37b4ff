package relay_test

import (
	"testing"
	"time"

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
			if age < time.Hour || age > time.Hour+patience {
				t.Errorf("the oldest is %v old, want an hour", age)
			}
		}
		if overview.Pending != 3 {
			t.Errorf("%d are pending, want 3", overview.Pending)
		}
	})
}
