// Package integration_test runs the whole way of an event, one scenario a file:
// a master's tables, outbox, relay, broker, consumer, a replica's tables. The
// servers are real; each test has schemas, an exchange, queues and CQRS IDs of
// its own.
//
// Whatever a scenario does, it ends with [rig.settled], which checks what holds
// after all of them: the replica equals the master, nothing is left on the way,
// every revision was published, in order, and a repetition of everything in any
// order changes nothing.
package integration_test

import (
	"context"
	"crypto/rand"
	"database/sql"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/lockstep-go/lockstep/broker"
	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/outbox"
)

// rig is a master and a replica with a broker between them. Relays and consumers
// are started by the scenario.
type rig struct {
	dialect               outbox.Dialect
	master, replica       *sql.DB
	masterDSN, replicaDSN string
	ownMariaDB            *mariadb // the server of both, when it is one of the test's own
	ownNATS               *nats    // the broker, likewise
	entities              []entity
	ob                    *outbox.Outbox

	brokerURL string
	suffix    string // of all names that tests share a server for
	queue     string
	control   broker.Broker // the test's own connection
	connect   func(ctx context.Context, url string) (broker.Broker, error)
	admin     *admin                 // of RabbitMQ
	depth     func(t *testing.T) int // messages in the replica's queue
	wire      *tap                   // all that the relay published
	dead      *tap                   // the dead letters
	log       *slog.Logger
	logs      output // what log was told

	services []service
	// mayFail lets the writers' transactions fail, as those of a database that is
	// away do.
	mayFail atomic.Bool
	filling atomic.Bool  // the writers may be ahead as far as they like
	bulks   atomic.Int64 // how often bulk was called
	// pace is the pause between a writer's transactions.
	pace time.Duration
	// echoes says that a connection that was given up may still deliver messages,
	// so that the last of a key is not always its newest. The replica does not mind.
	// All events of a key must have come in their order all the same, with others
	// between them.
	echoes bool
	// wantBuried is how many messages are to end in outbox_dead.
	wantBuried int
	// wantDead is how many dead letters the scenario is to have, and unfit tells
	// the messages they came from.
	wantDead int
	unfit    func(wired) bool
	checked  bool
}

// newRig returns a rig on PostgreSQL and RabbitMQ. Queues are bound, nothing runs.
func newRig(t *testing.T, entities ...entity) *rig {
	t.Helper()
	return newRigOn(t, nil, nil, entities...)
}

// newRigOn is newRig on servers of the test's own, where they are given.
func newRigOn(t *testing.T, database *cluster, broker *node, entities ...entity) *rig {
	t.Helper()
	r := &rig{dialect: outbox.Postgres}
	if broker != nil {
		r.brokerURL = broker.url
	} else {
		r.brokerURL = testdb.RabbitMQURL(t)
	}
	if database != nil {
		r.master, r.masterDSN = database.open(t, "master")
		r.replica, r.replicaDSN = database.open(t, "replica")
	} else {
		r.master, r.masterDSN = testdb.Postgres(t)
		r.replica, r.replicaDSN = testdb.Postgres(t)
	}
	r.prepare(t, entities)
	r.useRabbitMQ(t)
	r.bind(t)
	return r
}

// newMariaDBRig returns a rig on MariaDB, where it is given on a server of the test's
// own, and RabbitMQ.
func newMariaDBRig(t *testing.T, own *mariadb, entities ...entity) *rig {
	t.Helper()
	r := &rig{dialect: outbox.MySQL, brokerURL: testdb.RabbitMQURL(t), ownMariaDB: own}
	if own != nil {
		r.master, r.masterDSN = own.open(t, "master")
		replica := own
		if own.other != nil {
			replica = own.other
		}
		r.replica, r.replicaDSN = replica.open(t, "replica")
	} else {
		r.master, r.masterDSN = testdb.MariaDB(t)
		r.replica, r.replicaDSN = testdb.MariaDB(t)
	}
	r.prepare(t, entities)
	r.useRabbitMQ(t)
	r.bind(t)
	return r
}

// newLocalRig returns a rig that needs no server: SQLite and a JetStream inside
// this process.
func newLocalRig(t *testing.T, entities ...entity) *rig {
	t.Helper()
	r := &rig{dialect: outbox.SQLite, brokerURL: "jetstream+embedded://" + filepath.Join(t.TempDir(), "broker")}
	r.master, r.masterDSN = testdb.SQLite(t)
	r.replica, r.replicaDSN = testdb.SQLite(t)
	r.prepare(t, entities)
	r.useJetStream(t)
	r.bind(t)
	return r
}

// prepare makes the tables of both sides.
func (r *rig) prepare(t *testing.T, entities []entity) {
	t.Helper()
	t.Cleanup(func() {
		if !r.checked && !t.Failed() {
			t.Error("the scenario ended without the checks of settled")
		}
	})
	r.log = slog.New(slog.NewTextHandler(io.MultiWriter(t.Output(), &r.logs), nil))
	r.suffix = strings.ToLower(rand.Text()[:10])
	r.queue = "it_" + r.suffix
	cfg := outbox.Config{Dialect: r.dialect}
	for _, db := range []*sql.DB{r.master, r.replica} {
		if _, err := migrations.Up(t.Context(), db, r.dialect); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range entities {
		e.id = e.name + "_" + r.suffix
		r.entities = append(r.entities, e)
		cfg.Entities = append(cfg.Entities, outbox.Entity{ID: e.id, Table: e.table})
		r.createTable(t, r.master, e.table, e.masterDDL())
		if e.replicated() {
			r.createTable(t, r.replica, e.ref, e.replicaDDL())
		}
	}
	var err error
	if r.ob, err = outbox.New(cfg); err != nil {
		t.Fatal(err)
	}
	if err := r.ob.Check(t.Context(), r.master); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) createTable(t *testing.T, db *sql.DB, table, ddl string) {
	t.Helper()
	versions, err := migrations.TableSQL(r.dialect, table)
	if err != nil {
		t.Fatal(err)
	}
	execute(t, db, ddl+";\n"+versions)
}

// useRabbitMQ gives the rig an exchange of its own, which goes with its queues
// when the test ends.
func (r *rig) useRabbitMQ(t *testing.T) {
	t.Helper()
	admin := &admin{urls: hosts(r.brokerURL)}
	exchange := "it_" + r.suffix
	t.Cleanup(func() {
		admin.do(t, func(ch *amqp.Channel) error {
			for _, queue := range []string{r.queue, event.DeadLetterQueue(r.queue), r.wireQueue(), r.delayQueue()} {
				if _, err := ch.QueueDelete(queue, false, false, false); err != nil {
					return err
				}
			}
			return ch.ExchangeDelete(exchange, false, false)
		})
		admin.close()
	})
	r.brokerURL += "?exchange=" + exchange
	r.connect = func(ctx context.Context, url string) (broker.Broker, error) {
		return broker.Open(ctx, url, broker.Options{Logger: r.log})
	}
	r.admin = admin
	r.depth = func(t *testing.T) (n int) {
		t.Helper()
		admin.do(t, func(ch *amqp.Channel) error {
			q, err := ch.QueueDeclarePassive(r.queue, true, false, false, false, nil)
			n = q.Messages
			return err
		})
		return n
	}
}

// wireQueue is bound beside the replica's queue and sees what is published.
func (r *rig) wireQueue() string { return "it_wire_" + r.suffix }

// delayQueue is the one that the adapter makes for entities' retryDelay.
func (r *rig) delayQueue() string { return "lockstep.delay.it_" + r.suffix + ".1000" }

// admin is a connection past the adapter, which is made again when it was lost.
type admin struct {
	urls []string // of the servers, any of which will do
	conn *amqp.Connection
}

// hosts returns a URL for each of the hosts of one.
func hosts(brokerURL string) (urls []string) {
	start := strings.Index(brokerURL, "@") + 1
	end := start + strings.IndexAny(brokerURL[start:]+"/", "/?")
	for host := range strings.SplitSeq(brokerURL[start:end], ",") {
		urls = append(urls, brokerURL[:start]+host+brokerURL[end:])
	}
	return urls
}

func (a *admin) do(t *testing.T, what func(*amqp.Channel) error) {
	t.Helper()
	var err error
	for i := 0; i < len(a.urls) && (a.conn == nil || a.conn.IsClosed()); i++ {
		a.conn, err = amqp.Dial(a.urls[i])
	}
	if err != nil {
		t.Fatalf("%v\nstart it with `scripts/services up postgres rabbitmq`", err)
	}
	ch, err := a.conn.Channel()
	if err == nil {
		err = what(ch)
		_ = ch.Close()
	}
	if err != nil {
		t.Errorf("rabbitmq: %v", err)
	}
}

func (a *admin) close() {
	if a.conn != nil {
		_ = a.conn.Close()
	}
}

// unshared is a broker whose Close is left to its owner.
type unshared struct{ broker.Broker }

func (unshared) Close() error { return nil }

// useJetStream opens the embedded server, which all services of the rig share.
func (r *rig) useJetStream(t *testing.T) {
	t.Helper()
	embedded, err := broker.Open(t.Context(), r.brokerURL, broker.Options{Logger: r.log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeIt(t, embedded) })
	r.connect = func(context.Context, string) (broker.Broker, error) { return unshared{embedded}, nil }
	r.depth = func(t *testing.T) int { t.Helper(); return inQueue(t, embedded, r.queue) }
}

// inQueue returns how many messages a queue holds, those in consumers' hands included.
func inQueue(t *testing.T, b broker.Broker, queue string) int {
	t.Helper()
	messages, _, err := b.(broker.Letterbox).Inspect(t.Context(), queue)
	if err != nil {
		t.Fatal(err)
	}
	return messages
}

// bind makes the queues before anything is published, as a replica that is set
// up before its master's first event does.
func (r *rig) bind(t *testing.T) {
	t.Helper()
	control, err := r.connect(t.Context(), r.brokerURL+"&confirm_timeout="+patience.String())
	if err != nil {
		t.Fatal(err)
	}
	r.control = control
	t.Cleanup(func() { closeIt(t, control) })
	var topics, wireTopics, deadTopics []string
	deadQueue := event.DeadLetterQueue(r.queue)
	for _, e := range r.entities {
		if e.replicated() {
			topics = append(topics, event.QueueTopics(r.queue, e.id)...)
			wireTopics = append(wireTopics, event.Topic(e.id))
			deadTopics = append(deadTopics, event.DirectTopic(deadQueue, e.id))
		}
	}
	if err := control.Bind(t.Context(), r.queue, topics...); err != nil {
		t.Fatal(err)
	}
	if r.ownNATS != nil {
		r.wire = r.ownNATS.newTap(t, control, r.wireQueue(), wireTopics...)
	} else {
		r.wire = newTap(t, control, r.wireQueue(), wireTopics...)
	}
	r.dead = newTap(t, control, deadQueue, append(deadTopics, event.DirectTopic(deadQueue, "unknown"))...)
}

func closeIt(t *testing.T, c interface{ Close() error }) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// id returns the CQRS ID of an entity by its name.
func (r *rig) id(name string) string {
	return r.entities[slices.IndexFunc(r.entities, func(e entity) bool { return e.name == name })].id
}

// do runs fn in a transaction that is to commit.
func (r *rig) do(t *testing.T, fn func(ctx context.Context, tx *outbox.Tx) error) {
	t.Helper()
	if err := r.ob.InTx(t.Context(), r.master, fn); err != nil {
		t.Fatal(err)
	}
}

func execute(t *testing.T, db *sql.DB, statement string) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func number(t *testing.T, db *sql.DB, query string, args ...any) (n int64) {
	t.Helper()
	if err := db.QueryRowContext(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

// patience is how long anything may take that is expected to happen.
// Usually it takes a hundredth of that; a machine that is busy with other tests
// takes long at times.
const patience = 2 * time.Minute

// until waits for something to become true.
func until(t *testing.T, what string, happened func() bool) {
	t.Helper()
	if !eventually(t, happened) {
		t.Fatalf("%s: not after %v", what, patience)
	}
}

func eventually(t *testing.T, happened func() bool) bool {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !happened(); <-tick.C {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}
