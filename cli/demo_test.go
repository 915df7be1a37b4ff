package cli_test

import (
	"database/sql"
	"encoding/json"
	"maps"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/internal/testdb"
)

// demoResult is what `relay demo --json` promises.
type demoResult struct {
	Seconds      float64 `json:"seconds"`
	Transactions int64   `json:"transactions"`
	RolledBack   int64   `json:"rolled_back"`
	Written      int64   `json:"written"`
	Published    int64   `json:"published"`
	Applied      int64   `json:"applied"`
	Rows         int64   `json:"rows"`
	Converged    bool    `json:"converged"`
	LatencyMS    struct {
		P50 float64 `json:"p50"`
		P99 float64 `json:"p99"`
	} `json:"latency_ms"`
}

// checkDemo reads a demo's JSON and holds its numbers against each other.
func checkDemo(t *testing.T, output string, atLeast time.Duration) demoResult {
	t.Helper()
	var members map[string]any
	if err := json.Unmarshal([]byte(output), &members); err != nil {
		t.Fatalf("not one JSON object: %v\n%s", err, output)
	}
	want := []string{"applied", "converged", "latency_ms", "published", "rolled_back", "rows", "seconds", "transactions", "written"}
	equal(t, "members", want, slices.Sorted(maps.Keys(members)))
	var r demoResult
	if err := json.Unmarshal([]byte(output), &r); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	for what, ok := range map[string]bool{
		"converged":                           r.Converged,
		"it wrote for its time":               r.Seconds >= atLeast.Seconds() && r.Seconds < atLeast.Seconds()+20,
		"something was written":               r.Transactions > 0,
		"each transaction wrote 1 to 3":       r.Written >= r.Transactions && r.Written <= 3*r.Transactions,
		"all that was written was published":  r.Published == r.Written,
		"all that was published was applied":  r.Applied == r.Published,
		"rows come from events":               r.Rows > 0 && r.Rows <= r.Written,
		"latencies are times and in order":    r.LatencyMS.P50 > 0 && r.LatencyMS.P50 <= r.LatencyMS.P99,
		"a twentieth, not most, rolled back":  r.RolledBack >= 0 && r.RolledBack < r.Transactions,
		"the latency is not that of a stroll": r.LatencyMS.P50 < 10_000,
	} {
		if !ok {
			t.Errorf("not so: %s\n%s", what, output)
		}
	}
	return r
}

func TestDemo(t *testing.T) {
	t.Parallel()
	o := relay(t, "demo", "--for", "1s", "--json")
	o.expect(t, 0)
	if o.stderr != "" {
		t.Errorf("stderr: %s", o.stderr)
	}
	r := checkDemo(t, o.out, time.Second)
	if most := int64(1.5 * 500 * r.Seconds); r.Transactions+r.RolledBack > most {
		t.Errorf("%d transactions at a rate of 500 a second for %.1f s", r.Transactions, r.Seconds)
	}
}

// Its parts can be exchanged one by one.
func TestDemoOnOtherParts(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	checkDemo(t, mustRelay(t, "demo", "--for", "300ms", "--json", "--rate", "0", "--broker-url", "memory://",
		"--database-url", "sqlite://"+folder+"/master.db", "--replica-url", "sqlite://"+folder+"/replica.db"), 300*time.Millisecond)
	o := relay(t, "demo", "--for", "300ms", "--replica-url", "sqlite://"+folder+"/master.db")
	o.expect(t, 2, "database "+filepath.Join(folder, "master.db")+" is in use", "give the demo a new file")
	relay(t, "demo", "--for", "300ms", "--database-url", noDatabase).expect(t, 1, "database postgres://user:xxxxx@127.0.0.1:1/name cannot be reached")
	relay(t, "demo", "--for", "300ms", "--broker-url", noBroker).expect(t, 1, "--broker-url: ", "amqp://user:xxxxx@127.0.0.1:1/")
}

// ownDatabase makes a database of the test's own on the PostgreSQL server, since
// the demo's schemas have fixed names.
func ownDatabase(t *testing.T) (db *sql.DB, raw string) {
	t.Helper()
	admin, dsn := testdb.Postgres(t)
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal("not a URL")
	}
	name := unique("demo")
	if _, err := admin.ExecContext(t.Context(), "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Without FORCE, which is refused while autovacuum is in the database: the server waits
		// 5 s for sessions that are about to end.
		var err error
		for range 6 {
			if _, err = admin.Exec("DROP DATABASE " + name); err == nil { //nolint:noctx // the test's has ended
				return
			}
		}
		t.Error(err)
	})
	q := u.Query()
	q.Del("search_path")
	u.Path, u.RawQuery = "/"+name, q.Encode()
	db, err = sql.Open("postgres", u.String())
	if err != nil {
		t.Fatal("cannot open the database") // the error may hold the URL
	}
	t.Cleanup(func() { _ = db.Close() })
	return db, u.String()
}

func TestDemoOnServers(t *testing.T) {
	t.Parallel()
	db, database := ownDatabase(t)
	broker := testdb.RabbitMQURL(t)
	for range 2 { // the second run finds the first one's schemas
		p := start(t, nil, "demo", "--for", "1s", "--json", "--database-url", database, "--replica-url", database, "--broker-url", broker)
		if code, _ := p.exit(patience); code != 0 {
			t.Fatalf("exit code %d", code)
		}
		if have := p.log.String(); have != "" { // queues that stay on the broker, for one
			t.Errorf("stderr: %s", have)
		}
		r := checkDemo(t, p.out.String(), time.Second)
		var rows int64
		const both = `SELECT (SELECT count(*) FROM lockstep_demo_replica.account_ref) + (SELECT count(*) FROM lockstep_demo_replica.author_ref)`
		if err := db.QueryRowContext(t.Context(), both).Scan(&rows); err != nil || rows != r.Rows {
			t.Errorf("the replica has %d rows (%v), the demo says %d", rows, err, r.Rows)
		}
	}
}

// Ctrl-C ends the writing; the demo then drains, compares and says how it went.
func TestDemoInterrupted(t *testing.T) {
	t.Parallel()
	p := start(t, nil, "demo")
	eventually(t, func() string {
		if !strings.Contains(p.out.String(), "latency p50") {
			return "no line of progress"
		}
		return ""
	})
	p.exitsCleanly()
	out := p.out.String()
	summary := regexp.MustCompile(`(?m)^(\d+) events written in \d+ transactions, \d+ more rolled back\.\n(\d+) published, (\d+) applied; \d+ rows in the master\.\nEvery row of the replica equals the master's\.\n`).FindStringSubmatch(out)
	if summary == nil || summary[1] != summary[2] || summary[1] != summary[3] {
		t.Errorf("summary %q in:\n%s", summary, out)
	}
	if strings.Contains(out, "\x1b") {
		t.Errorf("cursor movements in what is no terminal: %q", out)
	}
	if have := p.log.String(); have != "" {
		t.Errorf("stderr: %s", have)
	}
}

// A master that cannot write ends the demo at once, not after waiting for a
// replica that will never catch up.
func TestDemoFails(t *testing.T) {
	t.Parallel()
	db, database := ownDatabase(t)
	p := start(t, nil, "demo", "--database-url", database)
	eventually(t, func() string {
		if !strings.Contains(p.out.String(), "written") {
			return "no line of progress"
		}
		return ""
	})
	if _, err := db.ExecContext(t.Context(), `DROP TABLE lockstep_demo_master.accounts`); err != nil {
		t.Fatal(err)
	}
	if code, _ := p.exit(20 * time.Second); code != 1 || !strings.Contains(p.log.String(), "relay: demo: ") || !strings.Contains(p.log.String(), "accounts") {
		t.Errorf("exit code %d, want 1 and the reason", code)
	}
}
