package integration_test

import (
	"context"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	natsserver "github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/lockstep-go/lockstep/broker"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/outbox"
)

// These tell this program that it is to be a NATS server, and where.
const natsPort, natsFolder = "LOCKSTEP_TEST_NATS_PORT", "LOCKSTEP_TEST_NATS_FOLDER"

// serveNATS is the server as a process of its own, with streams in files, until a
// signal ends it.
func serveNATS(port string) {
	number, err := strconv.Atoi(port)
	if err != nil {
		panic(err)
	}
	srv, err := natsserver.NewServer(&natsserver.Options{
		ServerName: "lockstep-test", Host: "127.0.0.1", Port: number, JetStream: true, StoreDir: os.Getenv(natsFolder),
	})
	if err != nil {
		panic(err)
	}
	srv.ConfigureLogger()
	srv.Start()
	srv.WaitForShutdown()
}

// nats is a NATS server of the test's own, the one that jetstream+embedded:// has in
// its process.
type nats struct {
	server
	url string
}

func newNATS(t *testing.T) *nats {
	t.Helper()
	port, dir := freePort(t), scratch(t, nil)
	n := &nats{url: "nats://" + loopback(port)}
	n.server = server{name: "NATS", quit: syscall.SIGKILL, command: func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), natsPort+"="+strconv.Itoa(port), natsFolder+"="+dir)
		return cmd
	}}
	n.ready = func() error { return listens(port) }
	t.Cleanup(func() { n.end(t) })
	n.start(t)
	return n
}

// newNATSRig returns a rig on PostgreSQL and a NATS server of the test's own.
func newNATSRig(t *testing.T, own *nats, entities ...entity) *rig {
	t.Helper()
	// What the server has handed out when it stops comes again after ack_wait.
	r := &rig{dialect: outbox.Postgres, brokerURL: own.url + "?ack_wait=2s", ownNATS: own}
	r.master, r.masterDSN = testdb.Postgres(t)
	r.replica, r.replicaDSN = testdb.Postgres(t)
	r.prepare(t, entities)
	r.connect = func(ctx context.Context, url string) (broker.Broker, error) {
		return broker.Open(ctx, url, broker.Options{Logger: r.log})
	}
	r.depth = func(t *testing.T) int {
		t.Helper()
		return inQueue(t, r.control, r.queue) + inQueue(t, r.control, r.wireQueue())
	}
	r.bind(t)
	return r
}

// newTap is [newTap] for a queue that the server may deliver in another order than it
// has the messages in, for some come twice: the tap keeps the stream's.
func (n *nats) newTap(t *testing.T, b broker.Broker, queue string, topics ...string) *tap {
	t.Helper()
	p := bindTap(t, b, queue, topics)
	conn, err := natsgo.Connect(n.url, natsgo.MaxReconnects(-1), natsgo.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	c, err := js.Consumer(t.Context(), stream, queue)
	if err != nil {
		t.Fatal(err)
	}
	consuming, err := c.Consume(func(m jetstream.Msg) {
		about, err := m.Metadata()
		if err != nil {
			t.Errorf("a message of JetStream's tells nothing of itself: %v", err)
			return
		}
		taken := message.NewMessage(m.Headers().Get(natsUUID), m.Data())
		for name, values := range m.Headers() {
			taken.Metadata.Set(name, values[0])
		}
		p.take(taken, about.Sequence.Stream)
		_ = m.Ack() // else it comes again
	}, jetstream.PullHeartbeat(500*time.Millisecond), jetstream.PullExpiry(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { consuming.Stop(); <-consuming.Closed() })
	return p
}

// The adapter's names.
const (
	stream   = "cqrs"
	natsUUID = "_watermill_message_uuid"
)
