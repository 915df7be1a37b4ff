package cli_test

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/outbox"
)

// pipeline is a master and a replica on PostgreSQL with RabbitMQ between them,
// under names of the test's own.
type pipeline struct {
	t                     *testing.T
	master, replica       *sql.DB
	masterURL, replicaURL string
	brokerURL             string
	entity, queue         string
	config                string
	outbox                *outbox.Outbox
	server                *amqp.Channel
}

func newPipeline(t *testing.T) *pipeline {
	t.Helper()
	p := &pipeline{t: t, brokerURL: testdb.RabbitMQURL(t), entity: unique("account"), queue: unique("billing")}
	p.master, p.masterURL = testdb.Postgres(t)
	p.replica, p.replicaURL = testdb.Postgres(t)
	mustRelay(t, "migrate", "up", "--database-url", p.masterURL)
	mustRelay(t, "migrate", "up", "--database-url", p.replicaURL)
	p.exec(p.master, `CREATE TABLE accounts (id bigint PRIMARY KEY, name text NOT NULL)`, mustRelay(t, "migrate", "table", "accounts"))
	p.exec(p.replica, `CREATE TABLE account_ref (id bigint PRIMARY KEY, title text NOT NULL)`, mustRelay(t, "migrate", "table", "account_ref"))
	p.config = writeFile(t, "lockstep.yaml", fmt.Sprintf(`
entities:
  %s: {table: accounts, key: id, fields: [id, name], ttl: 24h}
queue: %s
replicas:
  %s: {table: account_ref, key: id, columns: {id: id, name: title}, max_retries: 3, retry_delay: 100ms}
`, p.entity, p.queue, p.entity))
	var err error
	p.outbox, err = outbox.New(outbox.Config{Dialect: outbox.Postgres, Entities: []outbox.Entity{{ID: p.entity, Table: "accounts", Fields: []string{"id", "name"}}}})
	if err != nil {
		t.Fatal(err)
	}
	p.openServer()
	return p
}

// openServer opens a channel of the test's own and declares the queue, as the
// replica would, so that nothing is sent before it is there.
func (p *pipeline) openServer() {
	p.t.Helper()
	conn, err := amqp.Dial(p.brokerURL)
	if err != nil {
		p.t.Fatal("cannot dial RabbitMQ") // the error may hold the URL
	}
	p.t.Cleanup(func() { _ = conn.Close() })
	p.server, err = conn.Channel()
	if err == nil {
		_, err = p.server.QueueDeclare(p.queue, true, false, false, false, nil)
	}
	if err == nil {
		err = p.server.ExchangeDeclare("cqrs", "topic", true, false, false, false, nil)
	}
	if err == nil {
		err = p.server.QueueBind(p.queue, p.entity, "cqrs", false, nil)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		for _, queue := range []string{p.queue, event.DeadLetterQueue(p.queue)} {
			if _, err := p.server.QueueDelete(queue, false, false, false); err != nil {
				p.t.Errorf("delete queue %s: %v", queue, err)
			}
		}
	})
}

func (p *pipeline) exec(db *sql.DB, statements ...string) {
	p.t.Helper()
	for _, statement := range statements {
		if _, err := db.ExecContext(p.t.Context(), statement); err != nil {
			p.t.Fatalf("%s: %v", statement, err)
		}
	}
}

func (p *pipeline) count(db *sql.DB, table string) (n int) {
	p.t.Helper()
	if err := db.QueryRowContext(p.t.Context(), `SELECT count(*) FROM `+table).Scan(&n); err != nil {
		p.t.Fatal(err)
	}
	return n
}

// ready returns how many messages wait in the queue.
func (p *pipeline) ready() int {
	p.t.Helper()
	q, err := p.server.QueueDeclarePassive(p.queue, true, false, false, false, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	return q.Messages
}

// save saves accounts in one transaction.
func (p *pipeline) save(from, to int) {
	p.t.Helper()
	err := p.outbox.InTx(p.t.Context(), p.master, func(ctx context.Context, tx *outbox.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO accounts (id, name) SELECT n, 'account ' || n FROM generate_series($1::bigint, $2) n`, from, to)
		for id := from; id <= to && err == nil; id++ {
			err = tx.Saved(p.entity, id)
		}
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *pipeline) run(arg ...string) *process {
	return start(p.t, []string{"LOCKSTEP_DATABASE_URL=" + p.masterURL, "LOCKSTEP_BROKER_URL=" + p.brokerURL, "LOCKSTEP_CONFIG=" + p.config},
		append([]string{"run"}, arg...)...)
}

func (p *pipeline) consume(arg ...string) *process {
	return start(p.t, []string{"LOCKSTEP_DATABASE_URL=" + p.replicaURL, "LOCKSTEP_BROKER_URL=" + p.brokerURL, "LOCKSTEP_CONFIG=" + p.config},
		append([]string{"consume"}, arg...)...)
}

// arrived waits until the replica has that many rows.
func (p *pipeline) arrived(rows int) {
	p.t.Helper()
	eventually(p.t, func() string {
		if n := p.count(p.replica, "account_ref"); n != rows {
			return fmt.Sprintf("the replica has %d rows, want %d", n, rows)
		}
		return ""
	})
}

// The two commands are a master's relay and a whole replica service; one
// interrupt, or a service manager's SIGTERM, ends each with exit code 0.
func TestRunAndConsume(t *testing.T) {
	t.Parallel()
	p := newPipeline(t)
	consume, run := p.consume("--log-level", "debug"), p.run("--log-level", "debug", "--log-format", "json")
	p.save(1, 300)
	p.arrived(300)
	var title string
	if err := p.replica.QueryRowContext(t.Context(), `SELECT title FROM account_ref WHERE id = 42 AND cqrs_revision = 1`).Scan(&title); err != nil || title != "account 42" {
		t.Errorf("row 42: %q, %v", title, err)
	}
	run.exitsCleanly()
	if left := p.count(p.master, "outbox"); left != 0 {
		t.Errorf("%d events are still in the outbox", left)
	}
	consume.signal(syscall.SIGTERM)
	if code, by := consume.exit(patience); code != 0 {
		t.Errorf("consume after SIGTERM: exit code %d (%v), want 0", code, by)
	}
	for line := range strings.Lines(run.log.String()) {
		if !strings.HasPrefix(line, `{"time":`) {
			t.Errorf("not a log line in JSON: %s", line)
		}
	}
}

// lingers makes each statement of a kind take a moment, so that all of them take longer
// than a machine halts.
func (p *pipeline) lingers(db *sql.DB, kind string) {
	p.t.Helper()
	p.exec(db, `CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.02); RETURN NULL; END $$`,
		`CREATE TRIGGER linger AFTER `+kind+` FOR EACH STATEMENT EXECUTE FUNCTION linger()`)
}

// An interrupted relay settles what is under way: each event is either in the
// outbox or in the queue, none in both.
func TestRunDrains(t *testing.T) {
	t.Parallel()
	p := newPipeline(t)
	const total = 40_000
	p.lingers(p.master, "DELETE ON outbox")
	p.exec(p.master, fmt.Sprintf(`INSERT INTO outbox (topic, key, payload) SELECT '%s', n::text, '{}' FROM generate_series(1, %d) n`, p.entity, total))
	run := p.run("--batch-size", "50")
	eventually(t, func() string {
		if p.count(p.master, "outbox") == total {
			return "nothing has left the outbox"
		}
		return ""
	})
	run.exitsCleanly()
	left := p.count(p.master, "outbox")
	if left == 0 {
		t.Error("the relay was done before it was interrupted: the test shows nothing")
	}
	eventually(t, func() string {
		if sent := p.ready(); sent+left != total {
			return fmt.Sprintf("%d in the queue and %d in the outbox, %d together, want %d", sent, left, sent+left, total)
		}
		return ""
	})
}

// An interrupted consumer acknowledges what it has committed, and no more: each
// message is either a row or in the queue.
func TestConsumeDrains(t *testing.T) {
	t.Parallel()
	p := newPipeline(t)
	const total = 10_000
	p.save(1, total)
	run := p.run()
	eventually(t, func() string {
		if n := p.ready(); n != total {
			return fmt.Sprintf("%d messages in the queue, want %d", n, total)
		}
		return ""
	})
	run.exitsCleanly()
	p.lingers(p.replica, "INSERT ON account_ref")
	consume := p.consume("--batch-size", "20")
	eventually(t, func() string {
		if p.count(p.replica, "account_ref") == 0 {
			return "the replica is empty"
		}
		return ""
	})
	consume.exitsCleanly()
	rows := p.count(p.replica, "account_ref")
	if rows == total {
		t.Error("the consumer was done before it was interrupted: the test shows nothing")
	}
	eventually(t, func() string {
		if left := p.ready(); rows+left != total {
			return fmt.Sprintf("%d rows and %d messages, %d together, want %d", rows, left, rows+left, total)
		}
		return ""
	})
}

// stalled starts a relay that has messages under way to a broker which does not
// answer any more, and interrupts it.
func stalled(t *testing.T, drain string) *process {
	t.Helper()
	p := newPipeline(t)
	hanging := newProxy(t, p.brokerURL)
	p.brokerURL = hanging.url
	run := p.run("--drain", drain, "--lease", "5s") // which a busy machine does not lose
	run.waitLog("relaying")
	hanging.set(stalls)
	p.exec(p.master, fmt.Sprintf(`INSERT INTO outbox (topic, key, payload) SELECT '%s', n::text, '{}' FROM generate_series(1, 100) n`, p.entity))
	eventually(t, func() string { // the lease says how far the relay has read
		var position int
		if err := p.master.QueryRowContext(t.Context(), `SELECT position FROM outbox_leases`).Scan(&position); err != nil || position == 0 {
			return fmt.Sprintf("position %d (%v)", position, err)
		}
		return ""
	})
	run.signal(os.Interrupt)
	select {
	case <-run.done:
		t.Fatal("the relay ended although messages are under way")
	case <-time.After(300 * time.Millisecond):
	}
	return run
}

func TestSecondInterruptEndsAtOnce(t *testing.T) {
	t.Parallel()
	run := stalled(t, "1m")
	run.waitLog("draining")
	eventually(t, func() string { // the first one may not have had all its effect yet
		_ = run.cmd.Process.Signal(os.Interrupt)
		select {
		case <-run.done:
			return ""
		case <-time.After(50 * time.Millisecond):
			return "it drains on"
		}
	})
	if code, by := run.exit(patience); by != syscall.SIGINT {
		t.Errorf("exit code %d (%v), want an end by the signal", code, by)
	}
}

func TestDrainTakesTooLong(t *testing.T) {
	t.Parallel()
	run := stalled(t, "1s")
	if code, by := run.exit(patience); code != 1 || !strings.Contains(run.log.String(), "relay: not drained after 1s") {
		t.Errorf("exit code %d (%v), want 1 and why", code, by)
	}
}

// Outages of both servers are ridden out. Nothing of the URLs but what is fit to
// be shown reaches the log, also not at debug level and while connections fail.
func TestOutagesInTheLog(t *testing.T) {
	t.Parallel()
	p := newPipeline(t)
	user, err := url.Parse(p.masterURL)
	if err != nil {
		t.Fatal("not a URL")
	}
	database, replica, rabbit := newProxy(t, p.masterURL), newProxy(t, p.replicaURL), newProxy(t, p.brokerURL)
	p.masterURL, p.replicaURL, p.brokerURL = database.url, replica.url, rabbit.url
	run, consume := p.run("--log-level", "debug", "--poll", "20ms"), p.consume("--log-level", "debug")
	p.save(1, 10)
	p.arrived(10)
	for _, proxies := range [][]*proxy{{database, replica}, {rabbit}} {
		for _, proxy := range proxies {
			proxy.set(refuses)
		}
		before := p.count(p.master, "accounts")
		run.waitLog("paused: the outbox keeps what is pending")
		p.save(before+1, before+10)
		for _, proxy := range proxies {
			proxy.set(passes)
		}
		p.arrived(before + 10)
	}
	run.exitsCleanly()
	consume.exitsCleanly()
	password, _ := user.User.Password()
	for _, process := range []*process{run, consume} {
		log := process.log.String()
		for _, leak := range []string{":" + password + "@", "password=", "LOCKSTEP_", database.url, replica.url, rabbit.url, "guest:guest"} {
			if strings.Contains(log, leak) {
				t.Errorf("the log of relay %s holds %q", process.cmd.Args[1], leak)
			}
		}
		if !strings.Contains(log, "level=DEBUG") && !strings.Contains(log, "level=WARN") {
			t.Errorf("relay %s has logged nothing: the test shows nothing", process.cmd.Args[1])
		}
	}
}

// A command that is interrupted while it connects has nothing to finish.
func TestInterruptedWhileConnecting(t *testing.T) {
	t.Parallel()
	connected := make(chan struct{}, 10)
	database := listen(t, func(conn net.Conn) { connected <- struct{}{}; silent(conn) })
	run := start(t, nil, "run", "--database-url", "postgres://u:"+secret+"@"+database+"/name?sslmode=disable", "--broker-url", noBroker)
	<-connected
	select {
	case <-run.done:
		t.Fatal("the relay did not wait for its database")
	case <-time.After(500 * time.Millisecond):
	}
	run.exitsCleanly()
	if have := run.log.String(); have != "" {
		t.Errorf("stderr: %s", have)
	}
}
