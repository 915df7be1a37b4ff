package relay_test

import (
	"context"
	"database/sql"
	"net/url"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/relay"
)

// gated is a broker that takes a while to take its first batch.
type gated struct {
	*recorder
	open <-chan struct{}
}

func (g gated) PublishAsync(ctx context.Context, topics []string, msgs []*message.Message) func(context.Context) []error {
	wait := g.recorder.PublishAsync(ctx, topics, msgs)
	<-g.open
	return wait
}

// A relay that is cut off from its database stops to publish before its lease runs out:
// what it has read already is left to its successor.
func TestNothingLeavesBehindTheLease(t *testing.T) {
	t.Parallel()
	db, dsn := testdb.Postgres(t)
	m := migrated(t, db, relay.Postgres)
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	proxy := newSilent(t, u.Host)
	u.Host = proxy.Addr().String()
	through, err := sql.Open("postgres", u.String())
	if err != nil {
		t.Fatal(err)
	}
	m.put(t, "a1", "a2", "a3")
	open := make(chan struct{})
	first, second := gated{&recorder{}, open}, &recorder{}
	cutOff, _ := master{through, m.dialect}.start(t, first, relay.Config{BatchSize: 1, LeaseTTL: time.Second, DrainTimeout: time.Second})
	eventually(t, "a1 is handed over", func() bool { return len(first.all()) == 1 })
	<-time.After(200 * time.Millisecond) // a2 is read
	proxy.mute.Store(true)
	successor, _ := m.start(t, second, relay.Config{}) // whose lease outlasts a busy machine
	eventually(t, "the other has taken over", func() bool { return successor.Stats().Term >= 2 })
	m.drained(t)
	close(open)
	eventually(t, "the first stands by", func() bool { return cutOff.Stats().Term == 0 })
	wantSeen(t, first.recorder, "a1")
	wantSeen(t, second, "a1", "a2", "a3")
}
