package integration_test

import (
	"context"
	"net/url"
	"syscall"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/broker"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/outbox"
)

// newPostgresRig returns a rig on nothing but PostgreSQL: master, replica and broker. The broker's
// connections are called after it.
func newPostgresRig(t *testing.T, entities ...entity) *rig {
	t.Helper()
	r := &rig{dialect: outbox.Postgres}
	_, dsn := testdb.Postgres(t)
	r.master, r.masterDSN = testdb.Postgres(t)
	r.replica, r.replicaDSN = testdb.Postgres(t)
	r.prepare(t, entities)
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal("the database's address is not a URL")
	}
	q := u.Query()
	q.Set("schema", q.Get("search_path"))
	q.Set("lease", brokerLease.String())
	q.Set("application_name", r.suffix+"_broker")
	q.Del("search_path")
	u.RawQuery = q.Encode()
	r.brokerURL = u.String()
	r.connect = func(ctx context.Context, url string) (broker.Broker, error) {
		return broker.Open(ctx, url, broker.Options{Logger: r.log})
	}
	r.depth = func(t *testing.T) int { t.Helper(); return inQueue(t, r.control, r.queue) }
	plain := r.brokerURL
	q.Set("application_name", r.suffix+"_witness")
	q.Set("lease", patience.String())
	u.RawQuery = q.Encode()
	r.brokerURL = u.String()
	r.bind(t) // with the witness, whose own connections stay: what is repeated to it comes late
	r.brokerURL = plain
	return r
}

// brokerLease is until the messages of a dead consumer come again.
const brokerLease = 2 * time.Second

// PostgreSQL is master, replica and broker. The relay and the consumer are processes, which are killed in
// mid-flow. Then a consumer is killed, and another one frozen for longer than its lease, while they hold the
// newest messages of all keys: others have to get these.
func TestPostgresAsBroker(t *testing.T) {
	t.Parallel()
	r := newPostgresRig(t, account())
	re, c := r.startRelayProcess(t, r.brokerURL), r.startConsumerProcess(t)
	w := r.startWriters(t)
	r.progress(t)
	re.kill(t)
	r.startRelayProcess(t, r.brokerURL)
	r.progress(t)
	before := r.newest(t)
	until(t, "the consumer applies messages", func() bool { return r.newest(t) > before+2 })
	c.kill(t)
	c = r.startConsumerProcess(t)
	r.progress(t)
	w.stop()

	unlock := r.heldByConsumer(t)
	c.kill(t)
	unlock()
	c = r.startConsumerProcess(t)
	r.caughtUp(t)

	unlock = r.heldByConsumer(t)
	c.signal(t, syscall.SIGSTOP)
	unlock()
	// Its transaction would keep all others from these rows; the server ends it, as
	// idle_in_transaction_session_timeout does.
	number(t, r.replica, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = '`+r.suffix+`_consume'`)
	r.startConsumerProcess(t)
	r.caughtUp(t)
	c.signal(t, syscall.SIGCONT)
	r.settled(t)
}

// heldByConsumer brings it about that the consumer holds the newest messages of all keys behind a batch
// that waits for unlock.
func (r *rig) heldByConsumer(t *testing.T) (unlock func()) {
	t.Helper()
	u, err := url.Parse(r.brokerURL)
	if err != nil {
		t.Fatal("the broker's address is not a URL")
	}
	table := u.Query().Get("schema") + ".messages"
	r.caughtUp(t)
	unlock = r.lockReplica(t)
	r.lastWord(t)
	r.awaitWaiting(t)
	r.lastWord(t)
	until(t, "the consumer holds all messages", func() bool {
		return number(t, r.master, "SELECT count(*) FROM outbox") == 0 &&
			number(t, r.master, "SELECT count(*) FROM "+table+" WHERE holder IS NULL") == 0
	})
	return unlock
}

// A synchronous standby is away: what it has not got is not confirmed, although the server gives up waiting
// for it when it is asked to.
func TestPostgresBrokerWaitsForItsStandby(t *testing.T) {
	t.Parallel()
	server := newCluster(t)
	b, err := broker.Open(t.Context(), server.dsn("lockstep", "master")+"&confirm_timeout=2s", broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeIt(t, b) })
	if err := b.Bind(t.Context(), "billing", "account"); err != nil {
		t.Fatal(err)
	}
	standby := func(name string) {
		execute(t, server.admin, "ALTER SYSTEM SET synchronous_standby_names = '"+name+"'")
		execute(t, server.admin, "SELECT pg_reload_conf()")
		until(t, "the server has read its configuration", func() bool {
			return number(t, server.admin, "SELECT count(*) FROM pg_settings WHERE name = 'synchronous_standby_names' AND setting = '"+name+"'") == 1
		})
	}
	publish := func() error { return b.Publish("account", message.NewMessage(watermill.NewUUID(), []byte("{}"))) }
	until(t, "publishing works", func() bool { return publish() == nil })
	standby("away")
	until(t, "the server waits for its standby", func() bool { // its checkpointer decides that
		published := make(chan error, 1)
		go func() { published <- publish() }()
		for waits := false; ; {
			select {
			case err := <-published:
				return waits && err != nil
			case <-time.After(20 * time.Millisecond):
				waits = waits || number(t, server.admin, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") > 0
			}
		}
	})
	for range 3 {
		if publish() == nil {
			t.Error("confirmed, and no standby has it")
		}
	}
	standby("")
	until(t, "publishing goes on", func() bool { return publish() == nil })
}

// The broker's connections are terminated, again and again, whatever they do: relay and consumer make new
// ones and lose nothing. The witness of the order keeps its own: a message that was being read when its connection
// ended is repeated behind later ones.
func TestPostgresBrokerTerminated(t *testing.T) {
	t.Parallel()
	r := newPostgresRig(t, account())
	re, c := r.startRelay(t), r.startConsumer(t)
	w := r.startWriters(t)
	for range 4 {
		r.progress(t)
		until(t, "a connection of the broker is terminated", func() bool {
			return number(t, r.master, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = '`+r.suffix+`_broker'`) > 0
		})
	}
	r.progress(t)
	w.stop()
	r.lastWord(t)
	r.settled(t)
	spared(t, re, c)
}
