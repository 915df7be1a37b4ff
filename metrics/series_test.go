package metrics_test

import (
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/broker/memory"
	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/metrics"
	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/relay"
)

// docs/operations.md has all series of relays and consumers with their kinds, and no
// others, also in its alerts. All of them are there from the start, at zero.
func TestSeriesAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{} // kinds by name
	for _, table := range regexp.MustCompile("(?m)^\\| `(lockstep_[a-z]+_)…` \\| kind .*\n((?:^\\|.*\n)+)").FindAllStringSubmatch(string(page), -1) {
		for _, row := range regexp.MustCompile("(?m)^\\| (`.*?`) \\| ([a-z]+) \\|").FindAllStringSubmatch(table[2], -1) {
			for _, name := range regexp.MustCompile("`([a-z][a-z_]*)`").FindAllStringSubmatch(row[1], -1) {
				name := strings.TrimSuffix(name[1], "_sum")
				documented[table[1]+name] = row[2]
			}
		}
	}
	served := map[string]string{}
	for _, server := range idleServers(t) {
		_, body := ask(t, server, "/metrics")
		for _, family := range regexp.MustCompile(`(?m)^# TYPE (lockstep_\S+) (\S+)$`).FindAllStringSubmatch(body, -1) {
			served[family[1]] = family[2]
		}
		for name, value := range values(t, server) {
			if value != "0" {
				t.Errorf("%s is %s from the start, want 0", name, value)
			}
		}
	}
	if diff := cmp.Diff(served, documented); diff != "" {
		t.Errorf("series (-served +docs/operations.md):\n%s", diff)
	}
	_, alerts, _ := strings.Cut(string(page), "\n## Alerts\n")
	used := regexp.MustCompile(`lockstep_(?:relay|consumer)_\w+`).FindAllString(alerts, -1)
	if len(used) < 5 {
		t.Errorf("the alerts use %q, want more: has the page's form changed?", used)
	}
	for _, name := range used {
		if served[strings.TrimSuffix(name, "_bucket")] == "" {
			t.Errorf("an alert uses %s, which nobody serves", name)
		}
	}
}

// idleServers serve the metrics of a relay and of a consumer that do not run.
func idleServers(t *testing.T) []*httptest.Server {
	t.Helper()
	db, _ := testdb.SQLite(t)
	if _, err := migrations.Up(t.Context(), db, relay.SQLite); err != nil {
		t.Fatal(err)
	}
	b, err := memory.Open(t.Context(), memory.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	r, err := relay.New(db, b, relay.Config{Look: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	lag := metrics.NewLag()
	c, err := consumer.New(db, b, consumer.Config{Queue: "billing", Observe: lag.Observe})
	if err != nil {
		t.Fatal(err)
	}
	servers := []*httptest.Server{
		httptest.NewServer(metrics.Handler(metrics.Relay(r, time.Minute))),
		httptest.NewServer(metrics.Handler(metrics.Consumer(c, lag, time.Minute))),
	}
	for _, server := range servers {
		t.Cleanup(server.Close)
	}
	return servers
}
