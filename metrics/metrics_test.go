package metrics_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/broker/memory"
	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/metrics"
	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/relay"
)

// gate is a broker that confirms nothing until it is opened.
type gate struct{ open chan struct{} }

func (g gate) PublishAsync(_ context.Context, _ []string, msgs []*message.Message) func(context.Context) []error {
	return func(ctx context.Context) []error {
		select {
		case <-g.open:
			return nil
		case <-ctx.Done():
			return slices.Repeat([]error{ctx.Err()}, len(msgs))
		}
	}
}
func (gate) Publish(string, ...*message.Message) error { return nil }
func (gate) Close() error                              { return nil }

func ask(t *testing.T, server *httptest.Server, path string) (status int, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("never happened: %s", what)
		case <-tick.C:
		}
	}
}

// values returns our series with their values.
func values(t *testing.T, server *httptest.Server) map[string]string {
	t.Helper()
	_, body := ask(t, server, "/metrics")
	have := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^(lockstep_\S+) (\S+)$`).FindAllStringSubmatch(body, -1) {
		have[m[1]] = m[2]
	}
	return have
}

// A relay that has messages and gets none confirmed is not healthy, is again when
// the broker confirms, and counts what it did.
func TestRelayHealthIsProgress(t *testing.T) {
	t.Parallel()
	db, _ := testdb.SQLite(t)
	if _, err := migrations.Up(t.Context(), db, relay.SQLite); err != nil {
		t.Fatal(err)
	}
	g := gate{open: make(chan struct{})}
	r, err := relay.New(db, g, relay.Config{Look: 10 * time.Millisecond, DrainTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(metrics.Handler(metrics.Relay(r, 300*time.Millisecond)))
	t.Cleanup(server.Close)
	if status, body := ask(t, server, "/readyz"); status != 503 {
		t.Errorf("before Run: /readyz is %d %s, want 503", status, body)
	}
	for _, name := range []string{
		"lockstep_relay_pending", "lockstep_relay_oldest_seconds", "lockstep_relay_last_confirmed_timestamp_seconds",
		"lockstep_relay_published_total", "lockstep_relay_returned_total", "lockstep_relay_failed_total", "lockstep_relay_dead_total",
		"lockstep_relay_lease_held", "lockstep_relay_term", "lockstep_relay_batch_size", `lockstep_relay_phase_seconds_count{phase="confirm"}`,
	} {
		if have := values(t, server)[name]; have != "0" {
			t.Errorf("%s is %q from the start, want 0", name, have)
		}
	}

	running, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(running) }()
	healthy := func() bool { status, _ := ask(t, server, "/healthz"); return status == 200 }
	eventually(t, "an idle relay is ready", func() bool { status, _ := ask(t, server, "/readyz"); return status == 200 })
	if _, err := db.ExecContext(t.Context(), `INSERT INTO outbox (topic, key, payload) VALUES ('account', '1', 'x')`); err != nil {
		t.Fatal(err)
	}
	// A busy machine may be late with a look at the outbox, which is another reason.
	eventually(t, "a relay without progress is not healthy", func() bool {
		status, body := ask(t, server, "/healthz")
		return status == 503 && strings.Contains(body, "1 message is pending and none was confirmed")
	})
	eventually(t, "one is pending", func() bool { return values(t, server)["lockstep_relay_pending"] == "1" })
	close(g.open)
	eventually(t, "a relay that made progress is healthy", healthy)
	eventually(t, "it has counted", func() bool { return values(t, server)["lockstep_relay_published_total"] != "0" }) // after its deletion
	have := values(t, server)
	want := map[string]string{"lockstep_relay_published_total": "1", "lockstep_relay_lease_held": "1", "lockstep_relay_batch_size": "1"}
	for name := range have {
		if _, asked := want[name]; !asked {
			delete(have, name)
		}
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Error(diff)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A consumer's series are there before it runs, and it is ready once subscribed.
func TestConsumerIsReadyOnceSubscribed(t *testing.T) {
	t.Parallel()
	db, _ := testdb.SQLite(t)
	if _, err := migrations.Up(t.Context(), db, relay.SQLite); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), `CREATE TABLE account (id INTEGER PRIMARY KEY, name TEXT,
		cqrs_revision INTEGER NOT NULL DEFAULT 0, cqrs_updated TEXT NOT NULL DEFAULT '1970-01-01 00:00:00.000000+00:00')`); err != nil {
		t.Fatal(err)
	}
	b, err := memory.Open(t.Context(), memory.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	lag := metrics.NewLag()
	c, err := consumer.New(db, b, consumer.Config{Queue: "billing", Observe: lag.Observe})
	if err == nil {
		err = c.Table("account", consumer.Table{Name: "account"})
	}
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(metrics.Handler(metrics.Consumer(c, lag, time.Minute)))
	t.Cleanup(server.Close)
	if status, _ := ask(t, server, "/readyz"); status != 503 {
		t.Errorf("before Run: /readyz is %d, want 503", status)
	}
	for _, name := range []string{"applied_total", "duplicate_total", "stale_total", "gaps_total", "retried_total", "parked", "stuck", "dead_total", "batch_size", "lag_seconds_count"} {
		if have := values(t, server)["lockstep_consumer_"+name]; have != "0" {
			t.Errorf("%s is %q from the start, want 0", name, have)
		}
	}
	running, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(running) }()
	eventually(t, "ready", func() bool { status, _ := ask(t, server, "/readyz"); return status == 200 })
	body := `{"signal_type":"SAVE","cqrs_id":"account","instance_data":{"cqrs_revision":1,"cqrs_updated":"2026-01-02 03:04:05+00:00","id":1,"name":"x"},` +
		`"previous_data":null,"instance_pk":1,"correlation_id":null,"retries":0,"expires":null,"meta":{}}`
	if err := b.Publish("account", message.NewMessage("1", []byte(body))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "one applied, with its lag", func() bool {
		have := values(t, server)
		return have["lockstep_consumer_applied_total"] == "1" && have["lockstep_consumer_lag_seconds_count"] == "1" && have["lockstep_consumer_batch_size"] == "1"
	})
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if status, _ := ask(t, server, "/readyz"); status != 503 {
		t.Errorf("after Run: /readyz is %d, want 503", status)
	}
}

// A relay that cannot take a lease, and so sends nothing, does not pass for one that
// stands by.
func TestRelayThatCannotTakeItsLease(t *testing.T) {
	t.Parallel()
	db, _ := testdb.SQLite(t)
	if _, err := migrations.Up(t.Context(), db, relay.SQLite); err != nil {
		t.Fatal(err)
	}
	exec := func(statement string) {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	exec(`CREATE TRIGGER no BEFORE INSERT ON outbox_leases BEGIN SELECT RAISE(ABORT, 'not today'); END`)
	exec(`INSERT INTO outbox (topic, key, payload) VALUES ('account', '1', 'x')`)
	g := gate{open: make(chan struct{})}
	close(g.open)
	r, err := relay.New(db, g, relay.Config{Look: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(metrics.Handler(metrics.Relay(r, 300*time.Millisecond)))
	t.Cleanup(server.Close)
	running, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(running) }()
	eventually(t, "it is not healthy, and says why", func() bool {
		status, body := ask(t, server, "/healthz")
		return status == 503 && strings.Contains(body, "the lease could not be asked for")
	})
	exec(`DROP TRIGGER no`)
	eventually(t, "it is healthy when it works", func() bool {
		status, _ := ask(t, server, "/healthz")
		return status == 200 && r.Stats().Published == 1
	})
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
