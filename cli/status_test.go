package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/cli"
	"github.com/lockstep-go/lockstep/internal/testdb"
)

// shownStatus is what a program reads.
type shownStatus struct {
	Outbox *struct {
		Pending, Failing, Dead int
		Oldest                 float64 `json:"oldest_seconds"`
		OldestFailing          float64 `json:"oldest_failing_seconds"`
		Leases                 []struct {
			Holder string
			Held   bool
			Term   int
		}
	}
	Queue *struct {
		Name                string
		Messages, Consumers int
		DeadLetters         int `json:"dead_letters"`
	}
	Processes []struct {
		LastPublish time.Time `json:"last_publish"`
		Lag         float64   `json:"lag_seconds"`
		Parked      *int
		ParkedSince time.Time `json:"parked_since"`
	}
	Errors []string
}

func (p *pipeline) status(args ...string) (s shownStatus) {
	p.t.Helper()
	o := run(p.t, nil, "", append([]string{"status", "--json"}, args...)...)
	if err := json.Unmarshal([]byte(o.out), &s); err != nil {
		p.t.Fatalf("status: %v\n%v", err, o)
	}
	return s
}

func TestStatus(t *testing.T) {
	t.Parallel()
	p := newPipeline(t)
	p.save(1, 3)
	p.exec(p.master,
		`UPDATE outbox SET created_at = created_at - interval '1 hour'`,
		`UPDATE outbox SET created_at = created_at - interval '1 hour' WHERE id = (SELECT min(id) FROM outbox)`,
		`INSERT INTO outbox_failures SELECT max(id), 2, 'refused', now() FROM outbox`,
		`INSERT INTO outbox_failures SELECT max(id) + 7, 2, 'of a message that is gone', now() FROM outbox`,
		`INSERT INTO outbox_dead SELECT max(id) + 1, 'x', 'y', 'z', '{}', now(), 'refused', 1 FROM outbox`)
	both := []string{"--database-url", p.masterURL, "--broker-url", p.brokerURL, "--config", p.config}
	s := p.status(both...)
	if o := s.Outbox; o.Pending != 3 || o.Failing != 1 || o.Dead != 1 || len(o.Leases) != 0 ||
		o.Oldest < 7200 || o.Oldest > 7300 || o.OldestFailing < 3600 || o.OldestFailing > 3700 {
		t.Errorf("outbox before a relay ran: %+v", *o)
	}
	if q := s.Queue; q.Name != p.queue || q.Messages != 0 || q.Consumers != 0 || q.DeadLetters != 0 {
		t.Errorf("queue: %+v", *q)
	}
	shown := mustRelay(t, append([]string{"status"}, both...)...)
	if want := `^outbox   3 pending, the oldest for 2h0m\d+s, 1 of them failing, the oldest for 1h0m\d+s; 1 dead\n`; !regexp.MustCompile(want).MatchString(shown) {
		t.Errorf("status is not %s: %s", want, shown)
	}
	relaying, consuming := p.run(), p.consume()
	eventually(t, func() string {
		s = p.status(both...)
		if s.Outbox == nil || s.Queue == nil {
			return fmt.Sprintf("a side has not answered: %q", s.Errors)
		}
		if o, q := s.Outbox, s.Queue; o.Pending != 0 || len(o.Leases) != 1 || !o.Leases[0].Held || o.Leases[0].Term != 1 || q.Consumers != 1 {
			return "the outbox is not empty, or no lease is held, or nobody consumes"
		}
		return ""
	})
	relaying.exitsCleanly()
	consuming.exitsCleanly()
	o := run(t, nil, "", append([]string{"status"}, both...)...)
	o.expect(t, 0)
	for _, want := range []string{"outbox   0 pending, none failing; 1 dead\n", "free, last held by ", p.queue + ": 0 messages, 0 consumers; 0 dead letters\n"} {
		if !strings.Contains(o.out, want) {
			t.Errorf("status lacks %q: %v", want, o)
		}
	}
}

// A side that is not configured is left out; one that does not answer is told, and the
// other shown.
func TestStatusOfOneSide(t *testing.T) {
	t.Parallel()
	p := newPipeline(t)
	if s := p.status("--database-url", p.masterURL); s.Outbox == nil || s.Queue != nil || s.Errors != nil {
		t.Errorf("the master's side alone: %+v", s)
	}
	if s := p.status("--broker-url", p.brokerURL, "--queue", p.queue); s.Outbox != nil || s.Queue == nil || s.Errors != nil {
		t.Errorf("the replica's side alone: %+v", s)
	}
	o := run(t, nil, "", "status", "--database-url", p.masterURL, "--broker-url", noBroker, "--queue", p.queue)
	o.expect(t, 1, "--broker-url: ", "refused")
	if !strings.Contains(o.out, "outbox   0 pending") {
		t.Errorf("status lacks the outbox: %v", o)
	}
	empty, url := testdb.Postgres(t)
	_ = empty
	relay(t, "status", "--database-url", url).expect(t, 1, "relay migrate up")
	p.exec(p.master, `REVOKE SELECT ON outbox_leases FROM current_user`)
	o = relay(t, "status", "--database-url", p.masterURL)
	o.expect(t, 1, "outbox_leases", "GRANT")
	if strings.Contains(o.stderr, "migrate") {
		t.Errorf("a missing right is taken for a missing table: %v", o)
	}
	relay(t, "status").expect(t, 2, "--database-url and --broker-url are missing")
	relay(t, "status", "--broker-url", p.brokerURL, "--queue", unique("nobody")).expect(t, 1, "there is no queue")
	relay(t, "status", "--broker-url", p.brokerURL).expect(t, 2, "--queue is missing")
	relay(t, "status", "--broker-url", p.brokerURL, "--watch=1ms").expect(t, 2, "--watch is 1ms")
}

// A master's environment has a broker's URL for its relay, and no queue.
func TestStatusWithoutAQueue(t *testing.T) {
	p := newPipeline(t)
	t.Setenv("LOCKSTEP_BROKER_URL", p.brokerURL)
	if s := p.status("--database-url", p.masterURL); s.Outbox == nil || s.Queue != nil || s.Errors != nil {
		t.Errorf("the master's side alone: %+v", s)
	}
	o := relay(t, "status", "--database-url", p.masterURL)
	o.expect(t, 0)
	if want := "queue    none is named: --queue"; o.stderr != "" || !strings.Contains(o.out, want) || !strings.Contains(o.out, "outbox   0 pending") {
		t.Errorf("status lacks the outbox or %q: %v", want, o)
	}
}

// What is not answered because the command was interrupted is no fault of a side's.
func TestStatusInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, stderr bytes.Buffer
	code := cli.Main(ctx, []string{"status", "--database-url", sqlite(t)}, &out, &stderr)
	if have := stderr.String(); code != 1 || out.Len() > 0 || have != "relay: interrupted: context canceled\n" {
		t.Errorf("exit code %d, printed %q, %q; want 1 and that it was interrupted", code, out.String(), have)
	}
}

func TestStatusWatch(t *testing.T) {
	t.Parallel()
	_, url := testdb.Postgres(t)
	mustRelay(t, "migrate", "up", "--database-url", url)
	programs := start(t, nil, "status", "--database-url", url, "--watch=100ms", "--json")
	eventually(t, func() string {
		if strings.Count(programs.out.String(), `"pending":0`) < 3 || strings.Count(programs.out.String(), "\n") < 3 {
			return "it was not printed three times, a line each"
		}
		return ""
	})
	programs.exitsCleanly()
	p := start(t, nil, "status", "--database-url", url, "--watch=100ms")
	eventually(t, func() string {
		if strings.Count(p.out.String(), "outbox   0 pending") < 3 {
			return "it was not shown three times"
		}
		return ""
	})
	p.signal(os.Interrupt)
	if code, _ := p.exit(patience); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}
