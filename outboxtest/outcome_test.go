package outboxtest_test

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/outboxtest"
)

// eachDelivery runs a test with a consumer on each database.
func eachDelivery(t *testing.T, test func(t *testing.T, d *outboxtest.Delivery)) {
	t.Helper()
	for _, on := range []struct {
		dialect  consumer.Dialect
		open     func(testing.TB) (*sql.DB, string)
		timeType string
	}{{consumer.Postgres, testdb.Postgres, "timestamptz"}, {consumer.MySQL, testdb.MariaDB, "datetime(6)"}, {consumer.SQLite, testdb.SQLite, "text"}} {
		t.Run(string(on.dialect), func(t *testing.T) {
			t.Parallel()
			d, _ := deliveries(t, on.open, on.dialect, on.timeType)
			test(t, d)
		})
	}
}

// TestRequireOutcome: every outcome there is can be required as a whole, of tables
// and of handlers.
func TestRequireOutcome(t *testing.T) {
	t.Parallel()
	eachDelivery(t, func(t *testing.T, d *outboxtest.Delivery) {
		type step struct {
			want consumer.Outcome
			ev   outboxtest.Event
		}
		for _, entity := range []string{"account", "author"} {
			named := func(revision int64, name string) outboxtest.Event {
				return outboxtest.Event{Entity: entity, Key: "1", Revision: revision, Data: map[string]any{"id": 1, "name": name}}
			}
			forced := named(3, "Ada")
			forced.Signal, forced.Metadata = event.Sync, map[string]string{event.HeaderForce: "1", event.HeaderQueue: "billing"}
			spent := fmt.Sprintf(`{"signal_type":"SAVE","cqrs_id":%q,"instance_data":null,"instance_pk":1,"retries":30}`, entity)
			for _, s := range []step{
				{consumer.Outcome{Result: consumer.Applied}, named(1, "Ada")},
				{consumer.Outcome{Result: consumer.Duplicate}, named(1, "Ada")},
				{consumer.Outcome{Result: consumer.Applied, Gap: true}, named(4, "Ada")},
				{consumer.Outcome{Result: consumer.Stale}, named(2, "Ada")},
				{consumer.Outcome{Result: consumer.Applied, Downgrade: true}, forced},
				{consumer.Outcome{Result: consumer.Dead, Reason: "retries"}, outboxtest.Event{Payload: []byte(spent)}},
			} {
				d.RequireOutcome(s.want, s.ev)
			}
		}
		for _, s := range []step{
			{consumer.Outcome{Result: consumer.Retried, Delay: 2 * time.Second}, outboxtest.Event{Entity: "account", Key: "2", Revision: 1, Data: map[string]any{"id": 2, "name": "bad"}}},
			{consumer.Outcome{Result: consumer.Parked, Delay: 2 * time.Second}, outboxtest.Event{Entity: "card", Key: "1", Revision: 1, Data: map[string]any{"id": 1, "account": 8}}},
			{consumer.Outcome{Result: consumer.Retried, Delay: time.Hour, Err: errors.New("later")}, outboxtest.Event{Entity: "author", Key: "3", Revision: 1, Data: map[string]any{"name": "later"}}},
			{consumer.Outcome{Result: consumer.Dead, Reason: "permanent", Err: errors.New("never")}, outboxtest.Event{Entity: "author", Key: "3", Revision: 1, Data: map[string]any{"name": "never"}}},
			{consumer.Outcome{Result: consumer.Ignored}, outboxtest.Event{Entity: "old", Key: "1", Revision: 1}},
		} {
			d.RequireOutcome(s.want, s.ev)
		}
	})
}

// TestRequireOutcomeTellsTheDifference: a test that fails names the event, and what
// was wanted beside what there is.
func TestRequireOutcomeTellsTheDifference(t *testing.T) {
	t.Parallel()
	c, _ := delivered(t, testdb.SQLite, consumer.SQLite, "text")
	tests := []struct {
		want consumer.Outcome
		text []string
	}{
		{consumer.Outcome{Result: consumer.Applied}, []string{"SAVE author/7 of revision 1", `"applied"`, `"retried"`}},
		{consumer.Outcome{Result: consumer.Retried, Delay: time.Second}, []string{"1s", "1h0m0s"}},
		{consumer.Outcome{Result: consumer.Retried, Gap: true}, []string{"Gap", "true", "false"}},
		{consumer.Outcome{Result: consumer.Retried, Err: errors.New("another")}, []string{`"another"`, "later (again after 1h0m0s)"}},
		{consumer.Outcome{Result: consumer.Retried, Reason: "retries"}, []string{"Reason", `"retries"`}},
	}
	for _, tc := range tests {
		said := failure(t, func(tb testing.TB) {
			outboxtest.NewDelivery(tb, c).RequireOutcome(tc.want, outboxtest.Event{Entity: "author", Key: "7", Revision: 1, Data: map[string]any{"name": "later"}})
		})
		for _, text := range tc.text {
			if !strings.Contains(said, text) {
				t.Errorf("%+v: %q is not in\n%s", tc.want, text, said)
			}
		}
	}
}
