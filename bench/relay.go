package main

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	_ "github.com/lib/pq"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/lockstep-go/lockstep/broker/rabbitmq"
	"github.com/lockstep-go/lockstep/event"
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
	return byTurns(
		func() (float64, error) { return relayRate(ctx, r, messages) },
		func() (float64, error) { return reference(ctx, r, referenceMessages) },
	)
}

// byTurns measures both in random order.
func byTurns(us, them func() (float64, error)) (ours, ref float64, err error) {
	first := rand.N(2) == 0
	for _, turn := range []bool{first, !first} {
		if turn {
			ours, err = us()
		} else {
			ref, err = them()
		}
		if err != nil {
			return 0, 0, err
		}
	}
	return ours, ref, nil
}

// fill puts n messages into the outbox.
func (r *rig) fill(ctx context.Context, n int) error {
	_, err := r.db.ExecContext(ctx, `INSERT INTO outbox (topic, key, payload, metadata)
		SELECT 'account', i::text, $1, jsonb_build_object('lockstep-event-id', gen_random_uuid()) FROM generate_series(1, $2) i`, payload(), n)
	return err
}

// relayRate measures our relay from a full outbox to an empty one.
func relayRate(ctx context.Context, r *rig, n int) (float64, error) {
	if err := r.fill(ctx, n); err != nil {
		return 0, err
	}
	broker, err := rabbitmq.Open(ctx, r.amqpURL, rabbitmq.Config{Exchange: r.exchange})
	if err != nil {
		return 0, err
	}
	defer func() { _ = broker.Close() }()
	took, err := empty(ctx, r.db, broker, n, relay.Config{})
	if err != nil {
		return 0, err
	}
	return perSecond(n, took), r.received(ctx, n)
}

// empty runs a relay until it has published n messages.
func empty(ctx context.Context, db *sql.DB, broker message.Publisher, n int, cfg relay.Config) (time.Duration, error) {
	forward, err := relay.New(db, broker, cfg)
	if err != nil {
		return 0, err
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	began := time.Now()
	go func() { ended <- forward.Run(running) }()
	// Published is confirmed and deleted; asking the table would slow both down.
	err = until(ctx, func() bool { s := forward.Stats(); return s.Published+s.Collapsed >= int64(n) })
	took := time.Since(began)
	stop()
	return took, errors.Join(err, <-ended)
}

// until looks every millisecond.
func until(ctx context.Context, done func() bool) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
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
		return perSecond(n, took), r.received(ctx, n)
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
