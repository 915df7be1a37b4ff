package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/lib/pq"

	"github.com/lockstep-go/lockstep/broker/rabbitmq"
	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/relay"
)

var apply = row{
	name: "apply", target: 20,
	what: "a table replica on PostgreSQL takes messages of 10,000 entities from memory; against one guarded upsert a transaction",
	run: func(ctx context.Context, messages int) (float64, float64, error) {
		r, err := newReplicaRig(ctx)
		if err != nil {
			return 0, 0, err
		}
		defer r.close()
		messages *= 5 // a second or so: in less, the start would be a large part of it
		return byTurns(
			func() (float64, error) { return applyRate(ctx, r.db, newChanges().bodies(messages)) },
			func() (float64, error) { return upsertRate(ctx, r.db, newChanges().bodies(messages/10)) },
		)
	},
}

var endToEnd = row{
	name: "end-to-end", target: 8,
	what: "from a full outbox in the master to rows in the replica, relay and consumer side by side; against Watermill's forwarder and router with one upsert a message",
	run: func(ctx context.Context, messages int) (float64, float64, error) {
		r, err := newReplicaRig(ctx)
		if err != nil {
			return 0, 0, err
		}
		defer r.close()
		return byTurns(
			func() (float64, error) { return pipelineRate(ctx, r, newChanges().bodies(messages)) },
			func() (float64, error) { return routerRate(ctx, r, newChanges().bodies(messages/10)) },
		)
	},
}

const replicaTable = `CREATE TABLE account (
	id bigint PRIMARY KEY, name text NOT NULL, balance numeric(12,2) NOT NULL, note text,
	cqrs_revision bigint NOT NULL, cqrs_updated timestamptz NOT NULL)`

func newReplicaRig(ctx context.Context) (*rig, error) {
	r, err := newRig(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := r.db.ExecContext(ctx, replicaTable); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// changes makes the events of a master whose entities change at random.
type changes struct{ revisions map[int]int }

const entities = 10_000

// Each side's revisions are beyond those of the side before it.
var generation atomic.Int64

func newChanges() *changes {
	c := &changes{map[int]int{}}
	base := int(generation.Add(1)) * 1_000_000
	for k := range entities {
		c.revisions[k] = base
	}
	return c
}

func (c *changes) bodies(n int) [][]byte {
	note := strings.Repeat("x", 200)
	all := make([][]byte, n)
	for i := range all {
		k := rand.N(entities)
		c.revisions[k]++
		all[i] = fmt.Appendf(nil, `{"signal_type":"SAVE","cqrs_id":"account","instance_data":{"id":%d,"name":"account %d","balance":%d.25,"note":"%s",`+
			`"cqrs_revision":%d,"cqrs_updated":"%s"},"previous_data":null,"instance_pk":%d,"correlation_id":null,"retries":0,"expires":null,"meta":{}}`,
			k, k, i, note, c.revisions[k], time.Now().UTC().Format("2006-01-02 15:04:05.000000+00:00"), k)
	}
	return all
}

// ready is a broker that has everything in the subscriber's hands from the start.
type ready struct{ messages chan *message.Message }

func (b ready) Subscribe(context.Context, string) (<-chan *message.Message, error) {
	return b.messages, nil
}

func (ready) Publish(string, ...*message.Message) error {
	return fmt.Errorf("nothing is to be retried")
}

func (ready) PublishAfter(context.Context, time.Duration, string, *message.Message) error {
	return fmt.Errorf("nothing is to be retried")
}

func (ready) Bind(context.Context, string, ...string) error { return nil }
func (ready) Close() error                                  { return nil }

// settled counts messages that were dealt with.
func settled(s consumer.Stats) int { return int(s.Applied + s.Duplicate + s.Stale + s.Superseded) }

func applyRate(ctx context.Context, db *sql.DB, bodies [][]byte) (float64, error) {
	b := ready{make(chan *message.Message, len(bodies))}
	for _, body := range bodies {
		m := message.NewMessage(uuid.NewString(), body)
		m.Metadata[event.HeaderEventID] = m.UUID
		b.messages <- m
	}
	c, err := consumer.New(db, b, consumer.Config{Queue: "bench"})
	if err == nil {
		err = c.Table("account", consumer.Table{Name: "account"})
	}
	if err != nil {
		return 0, err
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	began := time.Now()
	go func() { ended <- c.Run(running) }()
	err = until(ctx, func() bool { return settled(c.Stats()) >= len(bodies) })
	took := time.Since(began)
	stop()
	if runErr := <-ended; err == nil {
		err = runErr
	}
	return perSecond(len(bodies), took), err
}

// upsertOne does what a hand-written handler does.
func upsertOne(ctx context.Context, db *sql.DB, body []byte) error {
	var e struct {
		Data struct {
			ID       int64
			Name     string
			Balance  json.Number
			Note     string
			Revision int64  `json:"cqrs_revision"`
			Updated  string `json:"cqrs_updated"`
		} `json:"instance_data"`
	}
	if err := json.Unmarshal(body, &e); err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	_, err = tx.ExecContext(ctx, `INSERT INTO account AS t (id, name, balance, note, cqrs_revision, cqrs_updated) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name, balance = EXCLUDED.balance, note = EXCLUDED.note,
			cqrs_revision = EXCLUDED.cqrs_revision, cqrs_updated = EXCLUDED.cqrs_updated
		WHERE t.cqrs_revision < EXCLUDED.cqrs_revision`, e.Data.ID, e.Data.Name, e.Data.Balance.String(), e.Data.Note, e.Data.Revision, e.Data.Updated)
	if err != nil {
		return err
	}
	return tx.Commit()
}

func upsertRate(ctx context.Context, db *sql.DB, bodies [][]byte) (float64, error) {
	began := time.Now()
	for _, body := range bodies {
		if err := upsertOne(ctx, db, body); err != nil {
			return 0, err
		}
	}
	return perSecond(len(bodies), time.Since(began)), nil
}

// pipelineRate measures relay and consumer side by side, from a full outbox.
func pipelineRate(ctx context.Context, r *rig, bodies [][]byte) (float64, error) {
	_, err := r.db.ExecContext(ctx, `INSERT INTO outbox (topic, key, payload, metadata)
		SELECT 'account', convert_from(b, 'UTF8')::jsonb ->> 'instance_pk', b, jsonb_build_object('lockstep-event-id', gen_random_uuid())
		FROM unnest($1::bytea[]) WITH ORDINALITY AS u (b, n) ORDER BY n`, pq.ByteaArray(bodies))
	if err != nil {
		return 0, err
	}
	broker, err := rabbitmq.Open(ctx, r.amqpURL, rabbitmq.Config{Exchange: r.exchange})
	if err != nil {
		return 0, err
	}
	defer func() { _ = broker.Close() }()
	c, err := consumer.New(r.db, broker, consumer.Config{Queue: r.queue})
	if err == nil {
		err = c.Table("account", consumer.Table{Name: "account"})
	}
	if err != nil {
		return 0, err
	}
	forward, err := relay.New(r.db, broker, relay.Config{})
	if err != nil {
		return 0, err
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 2)
	began := time.Now()
	go func() { ended <- forward.Run(running) }()
	go func() { ended <- c.Run(running) }()
	err = until(ctx, func() bool { return settled(c.Stats()) >= len(bodies) })
	took := time.Since(began)
	stop()
	for range 2 {
		if runErr := <-ended; err == nil {
			err = runErr
		}
	}
	return perSecond(len(bodies), took), err
}

// routerRate measures Watermill's forwarder and, side by side, its router with
// one upsert a message.
func routerRate(ctx context.Context, r *rig, bodies [][]byte) (float64, error) {
	cfg := r.watermill()
	cfg.Queue.GenerateName = func(string) string { return r.queue }
	cfg.QueueBind.GenerateRoutingKey = func(string) string { return "account" }
	from, err := wamqp.NewSubscriber(cfg, watermill.NopLogger{})
	if err != nil {
		return 0, err
	}
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: 10 * time.Second}, watermill.NopLogger{})
	if err != nil {
		return 0, err
	}
	var done atomic.Int64
	router.AddConsumerHandler("account", r.exchange, from, func(m *message.Message) error { //nolint:contextcheck // the message has the context
		if err := upsertOne(m.Context(), r.db, m.Payload); err != nil {
			return err
		}
		done.Add(1)
		return nil
	})
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- router.Run(running) }()
	rate, err := forwarded(ctx, r, bodies, func(ctx context.Context) error {
		return until(ctx, func() bool { return done.Load() >= int64(len(bodies)) })
	})
	stop()
	if runErr := <-ended; err == nil {
		err = runErr
	}
	return rate, err
}
