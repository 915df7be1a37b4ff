package consumer_test

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/lockstep-go/lockstep/broker/rabbitmq"
	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/migrations"
)

type writer struct {
	ID   int64
	Name string
}

// mounted is a consumer of accounts (a table) and writers (a handler) on
// RabbitMQ, with an exchange and queues of its own.
type mounted struct {
	*consumer.Consumer
	db              *sql.DB
	broker          *rabbitmq.Broker
	url             string
	exchange, queue string
}

func mount(t *testing.T) *mounted {
	t.Helper()
	m := &mounted{url: testdb.RabbitMQURL(t)}
	m.exchange = "router." + strings.ToLower(rand.Text())
	m.queue = m.exchange
	m.db, _ = testdb.Postgres(t)
	if _, err := migrations.Up(t.Context(), m.db, consumer.Postgres); err != nil {
		t.Fatal(err)
	}
	_, err := m.db.ExecContext(t.Context(), `CREATE TABLE account_ref (id bigint PRIMARY KEY, name text NOT NULL CHECK (name <> 'bad'),
		cqrs_revision bigint NOT NULL, cqrs_updated timestamptz NOT NULL);
		CREATE TABLE writer_log (id bigint, name text, attempt int)`)
	if err != nil {
		t.Fatal(err)
	}
	m.broker, err = rabbitmq.Open(t.Context(), m.url, rabbitmq.Config{Exchange: m.exchange})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.remove)
	m.Consumer, err = consumer.New(m.db, m.broker, consumer.Config{Queue: m.queue})
	if err != nil {
		t.Fatal(err)
	}
	write := func(ctx context.Context, tx consumer.Tx, ev consumer.Event[writer]) error {
		switch {
		case ev.Data.Name == "panic":
			panic("boom")
		case ev.Data.Name == "twice" && ev.Attempt == 1:
			return errors.New("not yet")
		case ev.Data.Name == "never":
			return consumer.Permanent(errors.New("never"))
		}
		_, err := tx.ExecContext(ctx, "INSERT INTO writer_log VALUES ($1, $2, $3)", ev.Data.ID, ev.Data.Name, ev.Attempt)
		return err
	}
	err = errors.Join(
		m.Table("account", consumer.Table{Name: "account_ref", MaxRetries: 1, RetryDelay: 50 * time.Millisecond, OnlyDirectSyncs: true}),
		consumer.Handle(m.Consumer, "writer", write, consumer.HandlerOptions{MaxRetries: 1, RetryDelay: 50 * time.Millisecond, OnlyDirectSyncs: true}),
		m.Bind(t.Context()),
	)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// remove takes away what the test has left on the broker.
func (m *mounted) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = m.broker.DeleteQueue(ctx, m.queue)
	_ = m.broker.DeleteQueue(ctx, event.DeadLetterQueue(m.queue))
	_ = m.broker.Close()
	if conn, err := amqp.Dial(m.url); err == nil {
		defer func() { _ = conn.Close() }()
		if ch, err := conn.Channel(); err == nil {
			_ = ch.ExchangeDelete(m.exchange, false, false)
		}
	}
}

func (m *mounted) number(t *testing.T, query string) (n int) {
	t.Helper()
	if err := m.db.QueryRowContext(t.Context(), query).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func body(signal, entity string, key, revision int, name string) string {
	return fmt.Sprintf(`{"signal_type":%q,"cqrs_id":%q,"instance_data":{"id":%d,"name":%q,"cqrs_revision":%d,"cqrs_updated":"2026-01-02 03:04:05.%06d+00:00"},`+
		`"previous_data":null,"instance_pk":%d,"correlation_id":null,"retries":0,"expires":null,"meta":{}}`, signal, entity, key, name, revision, revision, key)
}

// django publishes as django-cqrs does: no headers, no id.
func (m *mounted) django(t *testing.T, topic string, bodies ...string) {
	t.Helper()
	conn, err := amqp.Dial(m.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range bodies {
		err := ch.PublishWithContext(t.Context(), m.exchange, topic, true, false,
			amqp.Publishing{ContentType: "text/plain", DeliveryMode: amqp.Persistent, Body: []byte(b)})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// lettersOf collects a queue's messages until there are n.
func (m *mounted) lettersOf(t *testing.T, queue string, n int) []*message.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	messages, err := m.broker.Subscribe(ctx, queue)
	if err != nil {
		t.Fatal(err)
	}
	var all []*message.Message
	for len(all) < n {
		msg, ok := <-messages
		if !ok {
			t.Fatalf("%d messages in %s, want %d", len(all), queue, n)
		}
		msg.Ack()
		all = append(all, msg)
	}
	return all
}

// patience bounds what must happen, on a machine that is busy with other things.
const patience = time.Minute

func soon(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !condition(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// route runs a stock router until the test ends.
func route(t *testing.T, m *mounted, subscriber message.Subscriber, handler message.NoPublishHandlerFunc, middlewares ...message.HandlerMiddleware) {
	t.Helper()
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: 10 * time.Second}, watermill.NopLogger{})
	if err != nil {
		t.Fatal(err)
	}
	router.AddMiddleware(middlewares...)
	router.AddConsumerHandler("replica", m.queue, subscriber, handler)
	var running sync.WaitGroup
	running.Go(func() {
		if err := router.Run(t.Context()); err != nil {
			t.Errorf("router: %v", err)
		}
	})
	t.Cleanup(func() {
		if err := errors.Join(router.Close(), m.Close()); err != nil {
			t.Errorf("close: %v", err)
		}
		running.Wait()
	})
	<-router.Running()
}

func stockSubscriber(t *testing.T, m *mounted, marshaler wamqp.Marshaler) message.Subscriber {
	t.Helper()
	cfg := wamqp.NewDurableQueueConfig(m.url)
	cfg.Marshaler = marshaler
	s, err := wamqp.NewSubscriber(cfg, watermill.NopLogger{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestHandleMessageInARouter: over a stock subscriber and over ours, with
// Watermill's middlewares around it, messages are applied, retried with their
// delay, and dead-lettered, as by Run.
func TestHandleMessageInARouter(t *testing.T) {
	t.Parallel()
	for name, subscriber := range map[string]func(t *testing.T, m *mounted) message.Subscriber{
		"stock": func(t *testing.T, m *mounted) message.Subscriber {
			t.Helper()
			return stockSubscriber(t, m, rabbitmq.Marshaler{})
		},
		"ours": func(_ *testing.T, m *mounted) message.Subscriber { return m.broker },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := mount(t)
			route(t, m, subscriber(t, m), m.HandleMessage,
				middleware.CorrelationID, middleware.NewThrottle(500, time.Second).Middleware, middleware.Timeout(10*time.Second),
				middleware.Recoverer, middleware.Retry{MaxRetries: 3, InitialInterval: time.Millisecond}.Middleware)
			var accounts, writers []string
			for revision := 1; revision <= 5; revision++ {
				for key := 1; key <= 10; key++ {
					accounts = append(accounts, body("SAVE", "account", key, revision, fmt.Sprint("name ", revision)))
				}
			}
			writers = append(writers, body("SAVE", "writer", 1, 1, "good"), body("SAVE", "writer", 1, 1, "good"), body("SAVE", "writer", 2, 1, "twice"),
				body("SAVE", "writer", 3, 1, "never"), body("SAVE", "writer", 4, 1, "panic"))
			m.django(t, "account", append(accounts, body("SAVE", "account", 99, 1, "bad"), "garbage", `{"signal_type":"SAVE"}`)...)
			m.django(t, "writer", writers...)
			reasons := map[string]int{}
			for _, letter := range m.lettersOf(t, event.DeadLetterQueue(m.queue), 5) {
				reasons[letter.Metadata.Get(event.HeaderReason)]++
			}
			if reasons["retries"] != 2 || reasons["permanent"] != 1 || reasons["malformed"] != 1 || reasons["incomplete"] != 1 {
				t.Errorf("dead letters by reason: %v", reasons)
			}
			soon(t, "all is applied", func() bool {
				return m.number(t, "SELECT count(*) FROM account_ref WHERE cqrs_revision = 5 AND name = 'name 5'") == 10 &&
					m.number(t, "SELECT count(*) FROM writer_log") == 2
			})
			if n := m.number(t, "SELECT count(*) FROM writer_log WHERE name = 'twice' AND attempt = 2"); n != 1 {
				t.Error("the second attempt left no trace")
			}
			soon(t, "3 retried and 5 dead are counted", func() bool { s := m.Stats(); return s.Retried == 3 && s.Dead == 5 })
		})
	}
}

// TestMiddlewaresDecide: with Apply, Watermill's Retry and PoisonQueue see what
// fails. Watermill's own marshaler will do for what was never delayed.
func TestMiddlewaresDecide(t *testing.T) {
	t.Parallel()
	m := mount(t)
	poison := gochannel.NewGoChannel(gochannel.Config{Persistent: true}, watermill.NopLogger{})
	poisoned, err := middleware.PoisonQueue(poison, "poison")
	if err != nil {
		t.Fatal(err)
	}
	apply := func(msg *message.Message) error {
		o, err := m.Apply(msg.Context(), msg)
		return errors.Join(err, o.Err)
	}
	route(t, m, stockSubscriber(t, m, wamqp.DefaultMarshaler{}), apply, poisoned, middleware.Retry{MaxRetries: 2, InitialInterval: time.Millisecond}.Middleware, middleware.Recoverer)
	m.django(t, "account", body("SAVE", "account", 1, 1, "bad"), body("SAVE", "account", 1, 1, "good"), "garbage")
	letters, err := poison.Subscribe(t.Context(), "poison")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		select {
		case msg := <-letters:
			msg.Ack()
		case <-time.After(patience):
			t.Fatal("nothing came to the poison queue")
		}
	}
	soon(t, "the good one is applied", func() bool { return m.number(t, "SELECT count(*) FROM account_ref WHERE name = 'good'") == 1 })
	if s := m.Stats(); s.Received != 3+3+1 || s.Retried+s.Dead != 0 {
		t.Errorf("have %+v, want 7 received (two of them three times), none settled by us", s)
	}
}

// TestOnlyDirectSyncs: a direct SYNC is known by its routing key when it comes
// from django-cqrs, and by its header otherwise.
func TestOnlyDirectSyncs(t *testing.T) {
	t.Parallel()
	m := mount(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	for i, entity := range []string{"account", "writer"} {
		m.django(t, entity, body("SAVE", entity, 1, 1, "save"), body("SYNC", entity, 2, 1, "broadcast"))
		m.django(t, event.DirectTopic(m.queue, entity), body("SYNC", entity, 3, 1, "direct"))
		msg := message.NewMessage(watermill.NewUUID(), []byte(body("SYNC", entity, 4, 1, "header")))
		msg.Metadata.Set(event.HeaderQueue, m.queue)
		if err := m.broker.Publish(entity, msg); err != nil {
			t.Fatal(err)
		}
		soon(t, "all is settled", func() bool { s := m.Stats(); return s.Applied == int64(3*(i+1)) && s.Ignored == int64(i+1) })
	}
	for _, table := range []string{"account_ref", "writer_log"} {
		if n := m.number(t, "SELECT count(*) FROM "+table+" WHERE name IN ('save', 'direct', 'header')"); n != 3 {
			t.Errorf("%s has %d of 3 rows", table, n)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// TestRestartKeepsRetries: a delayed copy waits at the broker, not in the
// consumer.
func TestRestartKeepsRetries(t *testing.T) {
	t.Parallel()
	m := mount(t)
	run := func() (stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		return func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		}
	}
	stop := run()
	m.django(t, "writer", body("SAVE", "writer", 1, 1, "twice"))
	soon(t, "the first attempt fails", func() bool { return m.Stats().Retried == 1 })
	stop()
	stop = run()
	soon(t, "the second attempt works", func() bool { return m.Stats().Applied == 1 })
	stop()
	if n := m.number(t, "SELECT count(*) FROM writer_log"); n != 1 {
		t.Errorf("%d calls stand, want 1", n)
	}
}
