package cli_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// A command whose server is away is not healthy once --stalled-after is over, says why,
// and is healthy again by itself.
func TestHealthIsProgress(t *testing.T) {
	t.Parallel()
	p := newPipeline(t)
	broker, replica := newProxy(t, p.brokerURL), newProxy(t, p.replicaURL)
	health := []string{"--http", "127.0.0.1:0", "--stalled-after", "1s"}
	pages := func(args ...string) (at string) {
		running := start(t, nil, append(args, health...)...)
		running.waitLog("serving health and metrics")
		return "http://" + served.FindStringSubmatch(running.log.String())[1]
	}
	relaying := pages("run", "--database-url", p.masterURL, "--broker-url", broker.url+"?confirm_timeout=1s")
	consuming := pages("consume", "--config", p.config, "--database-url", replica.url, "--broker-url", p.brokerURL)
	says := func(page string, status int, text string) {
		t.Helper()
		eventually(t, func() string {
			if have, body := fetched(t, page); have != status || !strings.Contains(body, text) {
				return fmt.Sprintf("%s is %d %s, want %d with %q", page, have, body, status, text)
			}
			return ""
		})
	}
	healthy := func() {
		t.Helper()
		for _, at := range []string{relaying, consuming} {
			says(at+"/readyz", http.StatusOK, "ok")
			says(at+"/healthz", http.StatusOK, "ok")
		}
	}
	healthy()
	p.save(1, 3)
	p.arrived(3)
	healthy()

	broker.set(stalls)
	p.save(4, 6)
	says(relaying+"/healthz", http.StatusServiceUnavailable, "3 messages are pending and none was confirmed for ")
	says(relaying+"/readyz", http.StatusServiceUnavailable, "3 messages are pending")
	says(relaying+"/metrics", http.StatusOK, "lockstep_relay_pending 3")
	says(consuming+"/healthz", http.StatusOK, "ok")
	broker.set(passes)
	p.arrived(6)
	healthy()

	replica.set(refuses)
	p.save(7, 9)
	says(consuming+"/healthz", http.StatusServiceUnavailable, "waiting for the database or the broker for ")
	says(relaying+"/healthz", http.StatusOK, "ok")
	replica.set(passes)
	p.arrived(9)
	healthy()
}

// What --unroutable and --unroutable-direct say becomes of messages that no queue of
// RabbitMQ's is bound to.
func TestUnroutable(t *testing.T) {
	t.Parallel()
	for broadcast, direct := range map[string]string{"drop": "dead", "retry": "drop", "dead": "retry"} {
		t.Run(broadcast+", "+direct, func(t *testing.T) {
			t.Parallel()
			p := newPipeline(t)
			running := start(t, nil, "run", "--database-url", p.masterURL, "--broker-url", p.brokerURL,
				"--unroutable", broadcast, "--unroutable-direct", direct)
			event := func(topic string) {
				p.exec(p.master, `INSERT INTO outbox (topic, key, payload) VALUES ('`+topic+`', '1', '{}')`)
			}
			none, noQueue := unique("nobody"), "cqrs."+unique("nowhere")+".account"
			event(none)
			event(noQueue)
			event(none)
			want := map[string][3]int{ // rows in outbox, outbox_failures, outbox_dead
				none:    map[string][3]int{"drop": {0, 0, 0}, "retry": {2, 1, 0}, "dead": {0, 0, 2}}[broadcast],
				noQueue: map[string][3]int{"drop": {0, 0, 0}, "retry": {1, 1, 0}, "dead": {0, 0, 1}}[direct],
			}
			eventually(t, func() string {
				for topic, want := range want {
					of := ` WHERE topic = '` + topic + `'`
					have := [3]int{
						p.count(p.master, "outbox"+of), p.count(p.master, "outbox_failures JOIN outbox ON id = outbox_id"+of), p.count(p.master, "outbox_dead"+of),
					}
					if have != want {
						return fmt.Sprintf("of %s %v are in the outbox, failing, dead; want %v", topic, have, want)
					}
				}
				return ""
			})
			// Whoever waits for a queue goes when there is one.
			if err := p.server.QueueBind(p.queue, none, "cqrs", false, nil); err != nil {
				t.Fatal(err)
			}
			if err := p.server.QueueBind(p.queue, noQueue, "cqrs", false, nil); err != nil {
				t.Fatal(err)
			}
			waiting := want[none][0] + want[noQueue][0]
			eventually(t, func() string {
				if n := p.ready(); n != waiting {
					return fmt.Sprintf("%d messages are in the queue, want %d", n, waiting)
				}
				return ""
			})
			running.exitsCleanly()
			if n := p.count(p.master, "outbox"); n != 0 {
				t.Errorf("%d messages are left in the outbox, want none", n)
			}
		})
	}
}
