package cli_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// fetched is what a running command answers; "" while it does not.
func fetched(t *testing.T, url string) (status int, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, ""
	}
	defer func() { _ = response.Body.Close() }()
	text, _ := io.ReadAll(response.Body)
	return response.StatusCode, string(text)
}

var served = regexp.MustCompile(`serving health and metrics.* address=(\S+)`)

// run and consume serve health and metrics where they are told to.
func TestHTTP(t *testing.T) {
	t.Parallel()
	p := newPipeline(t)
	for _, c := range []struct {
		args   []string
		series string
	}{
		{[]string{"run", "--database-url", p.masterURL, "--broker-url", p.brokerURL}, "lockstep_relay_published_total 0"},
		{[]string{"consume", "--config", p.config, "--database-url", p.replicaURL, "--broker-url", p.brokerURL}, "lockstep_consumer_applied_total 0"},
	} {
		running := start(t, nil, append(c.args, "--http", "127.0.0.1:0")...)
		running.waitLog("serving health and metrics")
		at := "http://" + served.FindStringSubmatch(running.log.String())[1]
		eventually(t, func() string {
			if status, body := fetched(t, at+"/readyz"); status != http.StatusOK {
				return fmt.Sprintf("relay %s is not ready: %d %s", c.args[0], status, body)
			}
			return ""
		})
		if status, body := fetched(t, at+"/healthz"); status != http.StatusOK {
			t.Errorf("relay %s is not healthy: %d %s", c.args[0], status, body)
		}
		if _, body := fetched(t, at+"/metrics"); !strings.Contains(body, c.series) {
			t.Errorf("relay %s: /metrics lacks %q", c.args[0], c.series)
		}
		running.exitsCleanly()
		if status, _ := fetched(t, at+"/healthz"); status != 0 {
			t.Errorf("relay %s has ended and still answers", c.args[0])
		}
	}
}

// What only the processes know stands in the status when they are asked.
func TestStatusAsksProcesses(t *testing.T) {
	t.Parallel()
	p := newPipeline(t)
	relaying, consuming := p.run("--http", "127.0.0.1:0"), p.consume("--http", "127.0.0.1:0")
	var at []string
	for _, running := range []*process{relaying, consuming} {
		running.waitLog("serving health and metrics")
		at = append(at, "--metrics-url", "http://"+served.FindStringSubmatch(running.log.String())[1])
	}
	before := time.Now().Truncate(time.Second)
	p.save(1, 3)
	p.arrived(3)
	eventually(t, func() string { // the consumer counts after its commit
		s := p.status(at...)
		if len(s.Processes) != 2 {
			return fmt.Sprintf("%d processes have answered", len(s.Processes))
		}
		publishes, consumes := s.Processes[0], s.Processes[1]
		if publishes.LastPublish.Before(before) || consumes.Lag == 0 || consumes.Parked == nil || *consumes.Parked != 0 || publishes.Parked != nil {
			return fmt.Sprintf("they tell %+v", s.Processes)
		}
		return ""
	})
	o := run(t, nil, "", append([]string{"status", "--database-url", p.masterURL}, at...)...)
	o.expect(t, 0)
	for _, want := range []string{"outbox   0 pending", "relay    http://127.0.0.1:", ": last publish ", "consumer http://127.0.0.1:", ": last lag ", "; 0 parked; 0 stuck\n"} {
		if !strings.Contains(o.out, want) {
			t.Errorf("status lacks %q: %v", want, o)
		}
	}
	relaying.exitsCleanly()
	consuming.exitsCleanly()
	run(t, nil, "", append([]string{"status", "--database-url", p.masterURL}, at...)...).expect(t, 1, at[1], "connection refused")
	relay(t, "status", "--metrics-url", "relay:9464").expect(t, 2, "--metrics-url: use http://host:port")
	relay(t, "status", "--metrics-url", bindings(t)).expect(t, 1, "--metrics-url http://127.0.0.1:", "it answers 401")
}

// So does since when a consumer has parked messages.
func TestStatusOfParkedMessages(t *testing.T) {
	t.Parallel()
	p := newPipeline(t)
	p.exec(p.replica, `CREATE TABLE titles (title text PRIMARY KEY)`, `ALTER TABLE account_ref ADD FOREIGN KEY (title) REFERENCES titles`)
	text, err := os.ReadFile(p.config)
	if err != nil {
		t.Fatal(err)
	}
	p.config = writeFile(t, "patient.yaml", strings.Replace(string(text), "retry_delay: 100ms", "retry_delay: 1h", 1))
	relaying, consuming := p.run(), p.consume("--http", "127.0.0.1:0")
	consuming.waitLog("serving health and metrics")
	at := "--metrics-url=http://" + served.FindStringSubmatch(consuming.log.String())[1]
	before := time.Now().Truncate(time.Second)
	p.save(1, 2)
	eventually(t, func() string {
		all := p.status(at).Processes
		if len(all) == 0 {
			return "it has not answered"
		}
		if one := all[0]; *one.Parked != 2 || one.ParkedSince.Before(before) || one.ParkedSince.After(time.Now().Add(time.Second)) {
			return fmt.Sprintf("it tells %d parked since %v", *one.Parked, one.ParkedSince)
		}
		return ""
	})
	if shown := mustRelay(t, "status", at); !regexp.MustCompile(`; 2 parked, the oldest from \S+s ago; 0 stuck\n`).MatchString(shown) {
		t.Errorf("status: %s", shown)
	}
	p.exec(p.replica, `INSERT INTO titles VALUES ('account 1'), ('account 2')`)
	p.arrived(2)
	eventually(t, func() string {
		if shown := mustRelay(t, "status", at); !strings.Contains(shown, "; 0 parked; 0 stuck\n") {
			return shown
		}
		return ""
	})
	relaying.exitsCleanly()
	consuming.exitsCleanly()
}

func TestHTTPMisuse(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"run", "consume"} {
		relay(t, command, "--http", "9464").expect(t, 2, `--http is "9464": use host:port, such as 127.0.0.1:9464`)
		relay(t, command, "--http", ":9464", "--stalled-after", "1ms").expect(t, 2, "--stalled-after is 1ms: use 1s or more")
	}
}
