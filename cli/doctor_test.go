package cli_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/lockstep-go/lockstep/broker"
	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/testdb"
)

// diagnosis is what the doctor found.
type diagnosis struct {
	outcome
	Wrong    int
	Findings []struct{ Check, Level, What, Remedy string }
}

func diagnose(t *testing.T, args ...string) (d diagnosis) {
	t.Helper()
	d.outcome = run(t, nil, "", append([]string{"doctor", "--json"}, args...)...)
	if err := json.Unmarshal([]byte(d.out), &d); err != nil {
		t.Fatalf("doctor: %v\n%v", err, d.outcome)
	}
	if want := min(d.Wrong, 1); d.code != want {
		t.Errorf("exit code %d with %d things wrong", d.code, d.Wrong)
	}
	return d
}

func (p *pipeline) doctor(args ...string) diagnosis {
	p.t.Helper()
	return diagnose(p.t, append([]string{"--database-url", p.masterURL, "--replica-url", p.replicaURL, "--broker-url", p.brokerURL, "--config", p.config}, args...)...)
}

// finds demands a finding of this check and level whose text holds what.
func (d diagnosis) finds(t *testing.T, check, level, what string) {
	t.Helper()
	for _, f := range d.Findings {
		if f.Check == check && f.Level == level && strings.Contains(f.What, what) {
			if level == "wrong" && f.Remedy == "" && !strings.ContainsAny(f.What, ":;") {
				t.Errorf("%s: %q has no remedy", check, f.What)
			}
			return
		}
	}
	t.Errorf("no finding %s %s with %q:\n%s", level, check, what, d.out)
}

// bindings stands in for RabbitMQ's management, which tells the bindings.
func bindings(t *testing.T, keys ...string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if r.URL.EscapedPath() != "/api/exchanges/%2F/cqrs/bindings/source" || user == "" || password == "" {
			http.Error(w, "", http.StatusUnauthorized)
			return
		}
		var list []map[string]string
		for _, key := range keys {
			list = append(list, map[string]string{"source": "cqrs", "routing_key": key})
		}
		_ = json.NewEncoder(w).Encode(list)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// Nothing is wrong with a pipeline that runs.
func TestDoctorOfAHealthyPipeline(t *testing.T) {
	t.Parallel()
	p := newPipeline(t)
	relaying, consuming := p.run(), p.consume()
	eventually(t, func() string {
		s := p.status("--database-url", p.masterURL, "--broker-url", p.brokerURL, "--config", p.config)
		if s.Outbox == nil || s.Queue == nil || len(s.Outbox.Leases) == 0 || s.Queue.Consumers == 0 {
			return "the pipeline does not run yet"
		}
		return ""
	})
	d := p.doctor("--management-url", bindings(t, "other", p.entity), "--stuck-after", "10h")
	if d.Wrong != 0 || d.code != 0 {
		t.Errorf("found something wrong: %v", d.outcome)
	}
	for check, what := range map[string]string{
		"configuration": "can be read", "database": "can be reached", "replica's database": "can be reached", "migrations": "all are applied",
		"permissions": "may do all", "columns": "are as they have to be", "broker": "the exchange is as it has to be", "publish": "confirms",
		"queue": "right arguments", "routes": "a queue is bound to entity " + p.entity, "clock": "from this machine's",
		"vacuum": "no transaction is open", "lease": "a lease of about", "relay": "holds the lease", "stuck": "no message is failing",
	} {
		d.finds(t, check, "ok", what)
	}
	o := run(t, nil, "", "doctor", "--database-url", p.masterURL)
	o.expect(t, 0)
	if !strings.Contains(o.out, "ok     migrations: all are applied\n") {
		t.Errorf("printed: %v", o)
	}
	relaying.exitsCleanly()
	consuming.exitsCleanly()
}

func TestDoctorFindsFaultsOfTheDatabases(t *testing.T) {
	t.Parallel()
	p := newPipeline(t)
	p.save(1, 2)
	p.exec(p.master,
		`UPDATE outbox SET created_at = created_at - interval '1 hour'`,
		`REVOKE DELETE ON outbox FROM current_user`,
		`ALTER TABLE accounts RENAME COLUMN name TO label`)
	p.exec(p.replica, `ALTER TABLE account_ref ALTER cqrs_revision DROP NOT NULL`, `REVOKE INSERT ON account_ref FROM current_user`)
	d := p.doctor()
	d.finds(t, "permissions", "wrong", "DELETE on outbox")
	d.finds(t, "permissions", "wrong", "INSERT on account_ref")
	d.finds(t, "columns", "wrong", "name")
	d.finds(t, "columns", "wrong", "cqrs_revision may be null")
	d.finds(t, "stuck", "wrong", "2 messages are pending, the oldest for 1h0m")
	d.finds(t, "relay", "wrong", "no relay holds the lease")

	p.exec(p.master, `INSERT INTO outbox_failures SELECT min(id), 7, 'queue is full', now() FROM outbox`)
	d = p.doctor()
	d.finds(t, "stuck", "wrong", "after 7 attempts: queue is full")
	o := run(t, nil, "", "doctor", "--database-url", p.masterURL)
	o.expect(t, 1, "findings need something to be done")
	if !strings.Contains(o.out, "→ GRANT it") {
		t.Errorf("printed without a remedy: %v", o)
	}

	_, empty := testdb.Postgres(t)
	d = diagnose(t, "--database-url", empty)
	d.finds(t, "migrations", "wrong", "not applied: ")
	diagnose(t, "--database-url", noDatabase).finds(t, "database", "wrong", "cannot be reached")
}

func TestDoctorFindsAnOldTransaction(t *testing.T) {
	t.Parallel()
	p := newPipeline(t)
	conn, err := p.master.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	var pid int
	if _, err := conn.ExecContext(t.Context(), `BEGIN ISOLATION LEVEL REPEATABLE READ`); err != nil {
		t.Fatal(err)
	}
	if err := conn.QueryRowContext(t.Context(), `SELECT pg_backend_pid()`).Scan(&pid); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		d := diagnose(t, "--database-url", p.masterURL, "--stuck-after", "1s")
		for _, f := range d.Findings {
			if f.Check == "vacuum" && f.Level == "wrong" && strings.Contains(f.What, fmt.Sprintf("session %d of user", pid)) {
				return ""
			}
		}
		return "the session is not named: " + d.out
	})
}

func TestDoctorFindsFaultsOfTheBroker(t *testing.T) {
	t.Parallel()
	p := newPipeline(t)
	letters := event.DeadLetterQueue(p.queue)
	if _, err := p.server.QueueDeclare(letters, true, false, false, false, amqp.Table{"x-max-length": 10}); err != nil {
		t.Fatal(err)
	}
	err := p.server.PublishWithContext(t.Context(), "", p.queue, false, false, amqp.Publishing{Body: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if p.ready() != 1 {
			return "the message is not there"
		}
		return ""
	})
	d := p.doctor("--management-url", bindings(t, "other"))
	d.finds(t, "queue", "wrong", "x-max-length")
	d.finds(t, "queue", "ok", p.queue)
	d.finds(t, "consumer", "wrong", "1 message waits in "+p.queue)
	d.finds(t, "routes", "wrong", "no queue is bound to entity "+p.entity)
	p.doctor().finds(t, "routes", "note", "not checked")
	p.doctor("--queue", unique("nobody")).finds(t, "queue", "note", "does not exist")

	exchange := unique("exchange")
	if err := p.server.ExchangeDeclare(exchange, "fanout", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.server.ExchangeDelete(exchange, false, false) }()
	diagnose(t, "--broker-url", p.brokerURL+"?exchange="+exchange).finds(t, "broker", "wrong", "type")
	diagnose(t, "--broker-url", noBroker).remedied(t, "broker", "refused", "start it or correct the URL")
}

// JetStream knows by itself what is bound.
func TestDoctorOnJetStream(t *testing.T) {
	t.Parallel()
	url := "jetstream+embedded://" + t.TempDir()
	config := writeFile(t, "lockstep.yaml", "entities:\n  account: {table: accounts}\n  author: {table: authors}\n")
	b, err := broker.Open(t.Context(), url, broker.Options{})
	if err == nil {
		err = b.Bind(t.Context(), "billing", "account")
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = b.Close()
	d := diagnose(t, "--broker-url", url, "--config", config, "--queue", "billing")
	d.finds(t, "routes", "ok", "entity account")
	d.finds(t, "routes", "wrong", "entity author")
	d.finds(t, "queue", "ok", "billing")
	d.finds(t, "publish", "ok", "confirms")
}

func TestDoctorFindsFaultsOfTheConfiguration(t *testing.T) {
	t.Parallel()
	url := "sqlite://" + t.TempDir() + "/shop.db"
	mustRelay(t, "migrate", "up", "--database-url", url)
	broken := writeFile(t, "lockstep.yaml", "entities:\n  account: {tible: accounts}\n")
	diagnose(t, "--database-url", url, "--config", broken).finds(t, "configuration", "wrong", "tible")
	short := writeFile(t, "lockstep.yaml", "queue: billing\nconsume: {tombstone_retention: 24h, dead_letter_ttl: 48h}\nreplicas:\n  account: {table: account_ref}\n")
	diagnose(t, "--database-url", url, "--config", short).finds(t, "configuration", "wrong", "tombstone_retention of consume (--tombstone-retention) is 24h")
	relay(t, "doctor").expect(t, 2, "--database-url and --broker-url are missing")
	relay(t, "doctor", "--database-url", url, "--management-url", "x").expect(t, 2, "--management-url")
	relay(t, "doctor", "--database-url", url, "--stuck-after", "1ms", "--replica-url", "x").expect(t, 2, "--stuck-after", "--replica-url")
}

func TestDoctorOnMySQL(t *testing.T) {
	t.Parallel()
	_, dsn := testdb.MariaDB(t)
	url := testdb.MariaDBURL(t, dsn)
	mustRelay(t, "migrate", "up", "--database-url", url)
	d := diagnose(t, "--database-url", url, "--stuck-after", "10h")
	d.finds(t, "SQL mode", "ok", "strict")
	d.finds(t, "migrations", "ok", "all are applied")
	d.finds(t, "permissions", "ok", "may do all")
	d.finds(t, "clock", "ok", "from this machine's")
}
