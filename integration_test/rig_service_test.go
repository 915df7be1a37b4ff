package integration_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/lockstep-go/lockstep/broker"
	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/outbox"
	"github.com/lockstep-go/lockstep/relay"
)

// service is something that runs until it is stopped. A stop that is not clean
// fails the test. It may be repeated.
type service interface{ stop(t *testing.T) }

func (r *rig) started(t *testing.T, s service) {
	r.services = append(r.services, s)
	t.Cleanup(func() { s.stop(t) })
}

func (r *rig) stopAll(t *testing.T) {
	t.Helper()
	for _, s := range r.services {
		s.stop(t)
	}
	r.services = nil
}

// inside is a service that runs in this process on a broker connection of its own.
type inside struct {
	name   string
	broker broker.Broker
	cancel context.CancelFunc
	ended  chan error
	once   sync.Once
}

func (r *rig) run(t *testing.T, name string, b broker.Broker, run func(context.Context) error) *inside {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s := &inside{name: name, broker: b, cancel: cancel, ended: make(chan error, 1)}
	go func() { s.ended <- run(ctx) }()
	r.started(t, s)
	return s
}

func (s *inside) stop(t *testing.T) {
	t.Helper()
	s.once.Do(func() {
		s.cancel()
		select {
		case err := <-s.ended:
			if err != nil {
				t.Errorf("%s: Run returned %v, want nil", s.name, err)
			}
		case <-time.After(patience):
			t.Errorf("%s: Run did not return within %v", s.name, patience)
		}
		closeIt(t, s.broker)
	})
}

// pool returns connections of a service's own, which [rig.named] tells from the
// test's.
func (r *rig) pool(t *testing.T, service string, shared *sql.DB, dsn string) *sql.DB {
	t.Helper()
	driver := map[outbox.Dialect]string{outbox.Postgres: "postgres", outbox.MySQL: "mysql"}[r.dialect]
	if driver == "" {
		return shared
	}
	db, err := sql.Open(driver, r.named(t, service, dsn))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() }) // some connections may have been terminated
	return db
}

// named gives the connections of a service a name: on PostgreSQL the
// application_name, of the rig's suffix and what it is; on a MariaDB of the test's
// own the user's, which may be any there.
func (r *rig) named(t *testing.T, service, dsn string) string {
	t.Helper()
	switch {
	case r.dialect == outbox.Postgres:
		return dsn + "&application_name=" + r.suffix + "_" + service
	case r.ownMariaDB != nil:
		cfg, err := mysql.ParseDSN(dsn)
		if err != nil {
			t.Fatal(err)
		}
		cfg.User = service
		return cfg.FormatDSN()
	}
	return dsn
}

// address is what a process is told of a database.
func (r *rig) address(t *testing.T, service, dsn string) string {
	t.Helper()
	dsn = r.named(t, service, dsn)
	if r.dialect == outbox.MySQL {
		return testdb.MariaDBURL(t, dsn)
	}
	return dsn
}

// relayInside is a relay in this process.
type relayInside struct {
	*inside
	*relay.Relay
}

// startRelay starts a relay. A url leads it to the broker by another way.
func (r *rig) startRelay(t *testing.T, url ...string) *relayInside {
	t.Helper()
	return r.relay(t, append(url, r.brokerURL)[0], relay.Config{})
}

func (r *rig) relay(t *testing.T, url string, cfg relay.Config) *relayInside {
	t.Helper()
	b, err := r.connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	// The lease outlasts a machine that is slow for a while; nobody waits for its
	// end, since relays that are stopped give it back.
	cfg.Logger, cfg.LeaseTTL = r.log, relayLease
	re, err := relay.New(r.pool(t, "relay", r.master, r.masterDSN), b, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &relayInside{r.run(t, "relay", b, re.Run), re}
}

const relayLease = 10 * time.Second

// consumerInside is a consumer in this process.
type consumerInside struct {
	*inside
	*consumer.Consumer
}

// startConsumer starts a consumer of all replicas. A url leads it to the broker
// by another way.
func (r *rig) startConsumer(t *testing.T, url ...string) *consumerInside {
	t.Helper()
	return r.consume(t, append(url, r.brokerURL)[0], consumer.Config{})
}

func (r *rig) consume(t *testing.T, url string, cfg consumer.Config) *consumerInside {
	t.Helper()
	b, err := r.connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Queue, cfg.Logger = r.queue, r.log
	c, err := consumer.New(r.pool(t, "consumer", r.replica, r.replicaDSN), b, cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range r.entities {
		if !e.replicated() {
			continue
		}
		if err := c.Table(e.id, e.consumerTable()); err != nil {
			t.Fatal(err)
		}
	}
	return &consumerInside{r.run(t, "consumer", b, c.Run), c}
}

// lockReplica makes every transaction of a consumer wait until unlock is called.
func (r *rig) lockReplica(t *testing.T) (unlock func()) {
	t.Helper()
	return lockReplica(t, r.replica)
}

func lockReplica(t *testing.T, db *sql.DB) (unlock func()) {
	t.Helper()
	lock, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock.ExecContext(t.Context(), "LOCK TABLE account_ref IN EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := lock.Rollback(); err != nil {
			t.Error(err)
		}
	}
}

// awaitWaiting waits until a consumer's transaction waits for lockReplica's end.
func (r *rig) awaitWaiting(t *testing.T) {
	t.Helper()
	until(t, "the consumer's transaction waits", func() bool {
		return number(t, r.replica, "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'account_ref'::regclass") > 0
	})
}

// outside is a service that is a process of its own.
type outside struct {
	name string
	cmd  *exec.Cmd
	logs output
	once sync.Once
}

// startRelayProcess runs `relay run`, with a lease so short that nobody waits long for
// the next owner when it is killed. flags go before that.
func (r *rig) startRelayProcess(t *testing.T, brokerURL string, flags ...string) *outside {
	t.Helper()
	return r.startProcess(t, r.masterDSN, brokerURL, append([]string{"run", "--lease", "1s"}, flags...)...)
}

// startConsumerProcess runs `relay consume`. A url leads it to the broker by another way.
func (r *rig) startConsumerProcess(t *testing.T, url ...string) *outside {
	t.Helper()
	text := "queue: " + r.queue + "\nreplicas:\n"
	for _, e := range r.entities {
		text += e.yaml()
	}
	file := filepath.Join(t.TempDir(), "lockstep.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return r.startProcess(t, r.replicaDSN, append(url, r.brokerURL)[0], "consume", "--config", file)
}

func (r *rig) startProcess(t *testing.T, database, brokerURL string, args ...string) *outside {
	t.Helper()
	program, err := relayProgram()
	if err != nil {
		t.Fatal(err)
	}
	p := &outside{name: fmt.Sprint("relay ", args[0])}
	p.cmd = exec.CommandContext(t.Context(), program, args...)
	p.cmd.Env = append(os.Environ(), "LOCKSTEP_DATABASE_URL="+r.address(t, args[0], database), "LOCKSTEP_BROKER_URL="+brokerURL)
	p.cmd.Stderr = &p.logs
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.started(t, p)
	return p
}

// stop asks the process to end, as systemd and Kubernetes do.
func (p *outside) stop(t *testing.T) {
	t.Helper()
	p.once.Do(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails when it has ended, which Wait tells
		killer := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
		defer killer.Stop()
		if err := p.cmd.Wait(); err != nil && t.Context().Err() == nil {
			t.Errorf("%s: ended with %v, want exit code 0", p.name, err)
		}
		t.Logf("%s:\n%s", p.name, p.logs.text())
	})
}

// signal is for the process alone; it goes on to be watched.
func (p *outside) signal(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		t.Fatalf("%s: %v: %v", p.name, signal, err)
	}
}

// kill ends the process without giving it a chance to finish anything.
func (p *outside) kill(t *testing.T) {
	t.Helper()
	p.once.Do(func() {
		if err := p.cmd.Process.Kill(); err != nil {
			t.Errorf("%s: kill: %v", p.name, err)
		}
		var exit *exec.ExitError
		if err := p.cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != -1 {
			t.Errorf("%s: ended with %v before it was killed", p.name, err)
		}
		t.Logf("%s, killed:\n%s", p.name, p.logs.text())
	})
}

// programs is where TestMain lets relayProgram build.
var programs string

// relayProgram builds the relay command once.
var relayProgram = sync.OnceValues(func() (string, error) {
	path := filepath.Join(programs, "relay")
	out, err := exec.Command("go", "build", "-o", path, "github.com/lockstep-go/lockstep/cmd/relay").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build cmd/relay: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	if port := os.Getenv(natsPort); port != "" {
		serveNATS(port)
		return
	}
	if dsn := os.Getenv(writerDSN); dsn != "" {
		writeUntilKilled(dsn)
		return
	}
	if dsn := os.Getenv(handlerDSN); dsn != "" {
		handleUntilKilled(dsn)
		return
	}
	var err error
	if programs, err = os.MkdirTemp("", "lockstep-integration-"); err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(programs) }()
	m.Run()
}
