package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/components/forwarder"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	_ "github.com/lib/pq"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/lockstep-go/lockstep/broker/rabbitmq"
	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/relay"
)

var relayForwarder = row{
	name: "relay-forwarder", target: 12,
	what: "relay, PostgreSQL to RabbitMQ, durable queue, confirms, 500 bytes; against Watermill's forwarder (watermill-sql, watermill-amqp with confirms)",
	run: func(ctx context.Context, messages int) (float64, float64, error) {
		return bothWays(ctx, messages, messages/10, forwarderRate)
	},
}

var relayRaw = row{
	name: "relay-raw", target: 1,
	what: "the same relay; against a raw amqp091 publisher of the same messages, 500 of them under way",
	run: func(ctx context.Context, messages int) (float64, float64, error) {
		return bothWays(ctx, messages, messages, rawRate(true))
	},
}

var relayRawBare = row{
	name: "relay-raw-bare", target: 1,
	what: "the same relay; against a raw publisher whose messages have no headers, which spares RabbitMQ a fifth of its work",
	run: func(ctx context.Context, messages int) (float64, float64, error) {
		return bothWays(ctx, messages, messages, rawRate(false))
	},
}

const payloadBytes = 500

func payload() []byte { return []byte(strings.Repeat("x", payloadBytes)) }

// bothWays measures the relay and a reference in random order.
func bothWays(ctx context.Context, messages, referenceMessages int, reference func(context.Context, *rig, int) (float64, error)) (ours, ref float64, err error) {
	r, err := newRig(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer r.close()
	first := rand.N(2) == 0
	for _, us := range []bool{first, !first} {
		if us {
			ours, err = relayRate(ctx, r, messages)
		} else {
			ref, err = reference(ctx, r, referenceMessages)
		}
		if err != nil {
			return 0, 0, err
		}
	}
	return ours, ref, nil
}

// rig is a schema and a queue of a round's own.
type rig struct {
	admin    *sql.DB
	db       *sql.DB
	name     string
	amqpURL  string
	conn     *amqp.Connection
	channel  *amqp.Channel
	exchange string
	queue    string
}

func newRig(ctx context.Context) (*rig, error) {
	r := &rig{name: "bench_" + strings.ReplaceAll(uuid.NewString()[:8], "-", "")}
	postgres := env("LOCKSTEP_TEST_POSTGRES_URL", "postgres://lockstep:lockstep@127.0.0.1:5432/lockstep?sslmode=disable")
	r.amqpURL = env("LOCKSTEP_TEST_RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672/")
	r.exchange, r.queue = r.name, r.name
	var err error
	if r.admin, err = sql.Open("postgres", postgres); err != nil {
		return nil, err
	}
	if _, err := r.admin.ExecContext(ctx, "CREATE SCHEMA "+r.name); err != nil {
		return nil, fmt.Errorf("run `scripts/services up` first: %w", err)
	}
	if r.db, err = sql.Open("postgres", postgres+"&search_path="+r.name); err != nil {
		return nil, err
	}
	if _, err := migrations.Up(ctx, r.db, migrations.Postgres); err != nil {
		return nil, err
	}
	if r.conn, err = amqp.Dial(r.amqpURL); err != nil {
		return nil, fmt.Errorf("run `scripts/services up` first: %w", err)
	}
	if r.channel, err = r.conn.Channel(); err != nil {
		return nil, err
	}
	return r, r.declare()
}

func (r *rig) declare() error {
	if err := r.channel.ExchangeDeclare(r.exchange, "topic", true, false, false, false, nil); err != nil {
		return err
	}
	if _, err := r.channel.QueueDeclare(r.queue, true, false, false, false, nil); err != nil {
		return err
	}
	return r.channel.QueueBind(r.queue, "account", r.exchange, false, nil)
}

func (r *rig) close() {
	_, _ = r.channel.QueueDelete(r.queue, false, false, false)
	_ = r.channel.ExchangeDelete(r.exchange, false, false)
	_ = r.conn.Close()
	_ = r.db.Close()
	_, _ = r.admin.Exec("DROP SCHEMA " + r.name + " CASCADE")
	_ = r.admin.Close()
}

// received waits until the queue holds n messages and empties it.
func (r *rig) received(ctx context.Context, n int) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		q, err := r.channel.QueueDeclarePassive(r.queue, true, false, false, false, nil)
		if err != nil {
			return err
		}
		if q.Messages >= n {
			_, err := r.channel.QueuePurge(r.queue, false)
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d messages arrived: %w", q.Messages, n, ctx.Err())
		case <-tick.C:
		}
	}
}

// relayRate measures our relay from a full outbox to an empty one.
func relayRate(ctx context.Context, r *rig, n int) (float64, error) {
	if _, err := r.db.ExecContext(ctx, `INSERT INTO outbox (topic, key, payload, metadata)
		SELECT 'account', i::text, $1, jsonb_build_object('lockstep-event-id', gen_random_uuid()) FROM generate_series(1, $2) i`, payload(), n); err != nil {
		return 0, err
	}
	broker, err := rabbitmq.Open(ctx, r.amqpURL, rabbitmq.Config{Exchange: r.exchange})
	if err != nil {
		return 0, err
	}
	defer func() { _ = broker.Close() }()
	forward, err := relay.New(r.db, broker, relay.Config{})
	if err != nil {
		return 0, err
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	began := time.Now()
	go func() { ended <- forward.Run(running) }()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for forward.Stats().Published < int64(n) { // confirmed and deleted; asking the table would slow both down
		select {
		case <-tick.C:
		case <-ctx.Done():
			stop()
			return 0, errors.Join(context.Cause(ctx), <-ended)
		}
	}
	took := time.Since(began)
	stop()
	if err := <-ended; err != nil {
		return 0, err
	}
	return float64(n) / took.Seconds(), r.received(ctx, n)
}

// forwarderRate measures Watermill's forwarder from a full table to a full queue.
func forwarderRate(ctx context.Context, r *rig, n int) (float64, error) {
	log := watermill.NopLogger{}
	topic := "forward" + uuid.NewString()[:8]
	schema := wsql.DefaultPostgreSQLSchema{}
	into, err := wsql.NewPublisher(wsql.BeginnerFromStdSQL(r.db), wsql.PublisherConfig{SchemaAdapter: schema, AutoInitializeSchema: true}, log)
	if err != nil {
		return 0, err
	}
	enveloped := forwarder.NewPublisher(into, forwarder.PublisherConfig{ForwarderTopic: topic})
	for sent := 0; sent < n; {
		batch := make([]*message.Message, 0, 500)
		for ; sent < n && len(batch) < 500; sent++ {
			batch = append(batch, message.NewMessage(uuid.NewString(), payload()))
		}
		if err := enveloped.Publish("account", batch...); err != nil {
			return 0, err
		}
	}
	from, err := wsql.NewSubscriber(wsql.BeginnerFromStdSQL(r.db), wsql.SubscriberConfig{
		SchemaAdapter: schema, OffsetsAdapter: wsql.DefaultPostgreSQLOffsetsAdapter{}, InitializeSchema: true, PollInterval: 10 * time.Millisecond,
	}, log)
	if err != nil {
		return 0, err
	}
	cfg := wamqp.NewDurableTopicConfig(r.amqpURL, r.exchange, r.queue)
	cfg.Publish.GenerateRoutingKey = func(topic string) string { return topic }
	cfg.Exchange.Durable = true // its "durable" topology has an exchange that is not
	cfg.Publish.ConfirmDelivery = true
	to, err := wamqp.NewPublisher(cfg, log)
	if err != nil {
		return 0, err
	}
	defer func() { _ = to.Close() }()
	f, err := forwarder.NewForwarder(from, to, log, forwarder.Config{ForwarderTopic: topic})
	if err != nil {
		return 0, err
	}
	ended := make(chan error, 1)
	began := time.Now()
	go func() { ended <- f.Run(ctx) }()
	if err := r.received(ctx, n); err != nil {
		return 0, err
	}
	took := time.Since(began)
	if err := f.Close(); err != nil {
		return 0, err
	}
	return float64(n) / took.Seconds(), <-ended
}

// rawRate measures publishing with confirms and 500 messages under way, without
// any database. With headers the messages are the relay's.
func rawRate(headers bool) func(ctx context.Context, r *rig, n int) (float64, error) {
	return func(ctx context.Context, r *rig, n int) (float64, error) {
		conn, err := amqp.Dial(r.amqpURL)
		if err != nil {
			return 0, err
		}
		defer func() { _ = conn.Close() }()
		took, err := publishRaw(ctx, conn, r, n, headers)
		if err != nil {
			return 0, err
		}
		return float64(n) / took.Seconds(), r.received(ctx, n)
	}
}

func publishRaw(ctx context.Context, conn *amqp.Connection, r *rig, n int, headers bool) (time.Duration, error) {
	ch, err := conn.Channel()
	if err != nil {
		return 0, err
	}
	if err := ch.Confirm(false); err != nil {
		return 0, err
	}
	const window = 500
	confirms := ch.NotifyPublish(make(chan amqp.Confirmation, window))
	body := payload()
	began := time.Now()
	for sent, confirmed := 0, 0; confirmed < n; {
		for sent < n && sent-confirmed < window {
			msg := amqp.Publishing{ContentType: "text/plain", DeliveryMode: amqp.Persistent, MessageId: uuid.NewString(), Body: body}
			if headers {
				msg.Timestamp = time.Now()
				msg.Headers = amqp.Table{event.HeaderEventID: msg.MessageId, event.HeaderOutboxID: strconv.Itoa(sent)}
			}
			if err := ch.PublishWithContext(ctx, r.exchange, "account", true, false, msg); err != nil {
				return 0, err
			}
			sent++
		}
		if c, ok := <-confirms; !ok || !c.Ack {
			return 0, errors.New("not confirmed")
		}
		confirmed++
	}
	return time.Since(began), nil
}

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}
