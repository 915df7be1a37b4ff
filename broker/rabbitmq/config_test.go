package rabbitmq

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestURLParameters(t *testing.T) {
	t.Parallel()
	dial, address, have, err := parseURL("amqps://u:p%40ss@host:1/v?exchange=e&prefetch=7&window=8&"+
		"confirm_timeout=9s&connection_timeout=1500&name=n&heartbeat=5&server_name_indication=rabbit", Config{Exchange: "other"})
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Exchange: "e", Prefetch: 7, Window: 8, ConfirmTimeout: 9 * time.Second,
		DialTimeout: 1500 * time.Millisecond, Name: "n", Heartbeat: 5 * time.Second,
	}
	if diff := cmp.Diff(want, have, cmpopts.IgnoreFields(Config{}, "TLS", "Logger")); diff != "" {
		t.Errorf("config (-want +have):\n%s", diff)
	}
	if want := "amqps://u:p%40ss@host:1/v?server_name_indication=rabbit"; dial != want {
		t.Errorf("dialled: have %s, want %s", dial, want)
	}
	if want := "amqps://u:xxxxx@host:1/v"; address != want {
		t.Errorf("for people: have %s, want %s", address, want)
	}
}

// A URL may name a cluster's hosts; they share the rest.
func TestURLOfSeveralHosts(t *testing.T) {
	t.Parallel()
	dials, address, cfg, err := parseURLs("amqp://u,v:p,w@one,two:5673,three/shop?channel_max=5&window=8", Config{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"amqp://u,v:p%2Cw@one/shop?channel_max=5", "amqp://u,v:p%2Cw@two:5673/shop?channel_max=5", "amqp://u,v:p%2Cw@three/shop?channel_max=5",
	}
	for i := range dials {
		dials[i] = strings.Replace(dials[i], "p,w@", "p%2Cw@", 1)
	}
	if diff := cmp.Diff(want, dials); diff != "" {
		t.Errorf("dialled (-want +have):\n%s", diff)
	}
	if cfg.Window != 8 || strings.Contains(address, "p,w") || strings.Count(address, ",") < 2 {
		t.Errorf("window %d, address %s", cfg.Window, address)
	}
}

func TestZeroConfig(t *testing.T) {
	t.Parallel()
	have := Config{}.withDefaults()
	want := Config{
		Exchange: "cqrs", Prefetch: 1001, Window: 2048, Name: "lockstep",
		ConfirmTimeout: 10 * time.Second, DialTimeout: 10 * time.Second, Heartbeat: 10 * time.Second, QueueType: "classic",
	}
	if diff := cmp.Diff(want, have, cmpopts.IgnoreFields(Config{}, "TLS", "Logger")); diff != "" {
		t.Errorf("defaults (-want +have):\n%s", diff)
	}
	if err := have.validate(); err != nil {
		t.Errorf("defaults are not valid: %v", err)
	}
}

func TestFaultsOfConfigAndURL(t *testing.T) {
	t.Parallel()
	for url, want := range map[string][]string{
		"amqp://u:secret@h/?colour=red&shape=round":                 {"colour, shape"},
		"amqp://u:secret@h/?prefetch=many&window=0&confirm_timeout": {"prefetch", "window", "confirm_timeout"},
		"amqp://u:secret@h/?heartbeat=often":                        {"heartbeat"},
		"amqp://u:secret@h/?heartbeat=65536":                        {"Heartbeat", "1s"},
		"http://u:secret@h/":                                        {"http"},
		"amqp:u:secret@h/":                                          {"amqp://"},
		"amqp:/u:secret@h/":                                         {"amqp://"},
		"amqp://u:sec#ret@h/":                                       {"percent-encoded"},
		"amqp://u:secret@h/?prefetch=70000":                         {"Prefetch"},
	} {
		_, err := Open(t.Context(), url, Config{})
		if err == nil {
			t.Errorf("%s: want an error", url)
			continue
		}
		for line := range strings.Lines(err.Error()) {
			if !strings.HasPrefix(line, "rabbitmq: url: ") && !strings.HasPrefix(line, "rabbitmq: config: ") {
				t.Errorf("%s: have fault %q, want it to begin with whose it is", url, line)
			}
		}
		for _, text := range want {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%s: have error %q, want one with %q", url, err, text)
			}
		}
		if strings.Contains(err.Error(), "sec") {
			t.Errorf("%s: the error %q shows the password", url, err)
		}
	}
	_, err := Open(t.Context(), "amqp://h/", Config{
		Exchange: strings.Repeat("x", 201), Prefetch: -1, Window: -1, ConfirmTimeout: -1, DialTimeout: -1, Heartbeat: time.Millisecond,
	})
	for _, field := range []string{"Exchange", "Prefetch", "Window", "ConfirmTimeout", "DialTimeout", "Heartbeat"} {
		if err == nil || !strings.Contains(err.Error(), "rabbitmq: config: "+field) {
			t.Errorf("have error %v, want one that names %s", err, field)
		}
	}
}
