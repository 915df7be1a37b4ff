package integration_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-go/lockstep/broker"
	"github.com/lockstep-go/lockstep/cli"
)

// The doctor learns from RabbitMQ's own management which entities no queue is bound to.
func TestDoctorAsksRabbitMQsManagement(t *testing.T) {
	t.Parallel()
	at := loopback(freePort(t))
	_, port, _ := strings.Cut(at, ":")
	n := newNode(t, "management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = "+port, "rabbitmq_management")
	b, err := broker.Open(t.Context(), n.url, broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	if err := b.Bind(t.Context(), "billing", "account"); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "lockstep.yaml")
	if err := os.WriteFile(config, []byte("entities:\n  account: {table: accounts}\n  author: {table: authors}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var said string
	if !eventually(t, func() bool { // the management starts behind the broker
		var out bytes.Buffer
		relay := cli.New()
		relay.SetOut(&out)
		relay.SetErr(&out)
		relay.SetArgs([]string{"doctor", "--json", "--config", config, "--broker-url", n.url, "--management-url", "http://" + at})
		_ = relay.ExecuteContext(t.Context()) // an error: something is wrong, as it has to be
		said = out.String()
		var d struct {
			Findings []struct{ Check, Level, What string }
		}
		_ = json.NewDecoder(strings.NewReader(said)).Decode(&d)
		var routes []string
		for _, f := range d.Findings {
			if f.Check == "routes" {
				routes = append(routes, f.Level+" "+f.What)
			}
		}
		all := strings.Join(routes, "\n")
		return len(routes) == 2 && strings.Contains(all, "ok a queue is bound to entity account") && strings.Contains(all, "wrong no queue is bound to entity author")
	}) {
		t.Errorf("the doctor says %s", said)
	}
}
