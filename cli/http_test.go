package cli_test

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
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

func TestHTTPMisuse(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"run", "consume"} {
		relay(t, command, "--http", "9464").expect(t, 2, `--http is "9464": use host:port, such as 127.0.0.1:9464`)
		relay(t, command, "--http", ":9464", "--stalled-after", "1ms").expect(t, 2, "--stalled-after is 1ms: use 1s or more")
	}
}
