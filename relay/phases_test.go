package relay_test

import (
	"context"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/relay"
)

// slow is a broker that takes its time to take a batch and to confirm it.
type slow struct {
	*recorder
	send, confirm time.Duration
}

func (s slow) PublishAsync(ctx context.Context, topics []string, msgs []*message.Message) func(context.Context) []error {
	<-time.After(s.send)
	wait := s.recorder.PublishAsync(ctx, topics, msgs)
	return func(ctx context.Context) []error {
		<-time.After(s.confirm)
		return wait(ctx)
	}
}

// What takes long shows in the phase that it is, and in no other.
func TestPhasesAreTimed(t *testing.T) {
	t.Parallel()
	db, _ := testdb.Postgres(t)
	m := migrated(t, db, relay.Postgres)
	const send, confirm, settle = 300 * time.Millisecond, 600 * time.Millisecond, 900 * time.Millisecond
	if _, err := m.ExecContext(t.Context(), `CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN PERFORM pg_sleep(0.9); RETURN NULL; END $$;
		CREATE TRIGGER linger AFTER DELETE ON outbox FOR EACH STATEMENT EXECUTE FUNCTION linger()`); err != nil {
		t.Fatal(err)
	}
	m.put(t, "a1", "b1", "c1")
	r, stop := m.start(t, slow{&recorder{}, send, confirm}, relay.Config{})
	m.drained(t)
	stop()
	s := r.Stats()
	for phase, c := range map[string]struct {
		took  relay.Timing
		least time.Duration
	}{"send": {s.Send, send}, "confirm": {s.Confirm, confirm}, "settle": {s.Settle, settle}} {
		if c.took.Count != 1 || c.took.Total < c.least {
			t.Errorf("%s took %v in %d batches, want %v or more in one", phase, c.took.Total, c.took.Count, c.least)
		}
	}
	if s.Read.Count < 2 || s.Read.Total <= 0 {
		t.Errorf("read took %v in %d reads, want more of them: an idle relay looks again", s.Read.Total, s.Read.Count)
	}
	if s.BatchSize != 3 {
		t.Errorf("the last batch has %d messages, want 3", s.BatchSize)
	}
}
