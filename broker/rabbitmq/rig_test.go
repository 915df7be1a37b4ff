package rabbitmq

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/lockstep-go/lockstep/internal/testdb"
)

// rig is a test's own exchange on the real server, and a channel to look behind the broker's back.
// Exchange and queues are deleted at the end.
type rig struct {
	t        testing.TB
	url      string
	exchange string
	conn     *amqp.Connection
	ch       *amqp.Channel

	mu     sync.Mutex
	queues []string
}

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{t: t, url: testdb.RabbitMQURL(t), exchange: "test-" + uuid.NewString()[:8]}
	var err error
	if r.conn, err = amqp.Dial(r.url); err != nil {
		t.Fatalf("no RabbitMQ (%v); start it with: scripts/services up postgres rabbitmq", err)
	}
	r.ch = r.channel()
	t.Cleanup(r.clean)
	return r
}

func (r *rig) channel() *amqp.Channel {
	r.t.Helper()
	ch, err := r.conn.Channel()
	if err != nil {
		r.t.Fatal(err)
	}
	return ch
}

func (r *rig) clean() {
	ch := r.channel() // a test's failure may have closed the first one
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, queue := range r.queues {
		if _, err := ch.QueueDelete(queue, false, false, false); err != nil {
			r.t.Errorf("delete queue %s: %v", queue, err)
		}
		if strings.HasPrefix(queue, "lockstep.delay.") {
			if err := ch.ExchangeDelete(queue, false, false); err != nil {
				r.t.Errorf("delete exchange %s: %v", queue, err)
			}
		}
	}
	if err := ch.ExchangeDelete(r.exchange, false, false); err != nil {
		r.t.Errorf("delete exchange %s: %v", r.exchange, err)
	}
	_ = r.conn.Close()
}

// queue returns a new queue name; the queue is deleted at the end of the test.
func (r *rig) queue() string { return r.deleteLater("test-" + uuid.NewString()[:8]) }

func (r *rig) deleteLater(queue string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queues = append(r.queues, queue)
	return queue
}

func (r *rig) open(cfg Config) *Broker {
	r.t.Helper()
	return r.openAt(r.url, cfg)
}

func (r *rig) openAt(url string, cfg Config) *Broker {
	r.t.Helper()
	cfg.Exchange = r.exchange
	b, err := Open(context.Background(), url, cfg)
	if err != nil {
		r.t.Fatalf("Open: %v", err)
	}
	r.t.Cleanup(func() { _ = b.Close() })
	return b
}

// bound opens a broker with one queue, bound to the topics.
func (r *rig) bound(cfg Config, topics ...string) (b *Broker, queue string) {
	r.t.Helper()
	b, queue = r.open(cfg), r.queue()
	r.bind(b, queue, topics...)
	return b, queue
}

func (r *rig) bind(b *Broker, queue string, topics ...string) {
	r.t.Helper()
	if err := b.Bind(r.t.Context(), queue, topics...); err != nil {
		r.t.Fatalf("Bind: %v", err)
	}
}

func (r *rig) subscribe(b *Broker, queue string) <-chan *message.Message {
	r.t.Helper()
	messages, err := b.Subscribe(r.t.Context(), queue)
	if err != nil {
		r.t.Fatalf("Subscribe: %v", err)
	}
	return messages
}

// get takes one message from the queue by plain AMQP.
func (r *rig) get(queue string) (d amqp.Delivery) {
	r.t.Helper()
	eventually(r.t, "a message in queue "+queue, func() (ok bool) {
		var err error
		if d, ok, err = r.ch.Get(queue, true); err != nil {
			r.t.Fatalf("get from %s: %v", queue, err)
		}
		return ok
	})
	return d
}

// payloads empties the queue by plain AMQP.
func (r *rig) payloads(queue string) (payloads []string) {
	r.t.Helper()
	for {
		d, ok, err := r.ch.Get(queue, true)
		if err != nil {
			r.t.Fatalf("get from %s: %v", queue, err)
		}
		if !ok {
			return payloads
		}
		payloads = append(payloads, string(d.Body))
	}
}

// receive takes n messages, acking them, and returns their payloads.
func (r *rig) receive(messages <-chan *message.Message, n int) (payloads []string) {
	r.t.Helper()
	for len(payloads) < n {
		msg := r.next(messages)
		payloads = append(payloads, string(msg.Payload))
		msg.Ack()
	}
	return payloads
}

func (r *rig) next(messages <-chan *message.Message) *message.Message {
	r.t.Helper()
	select {
	case msg, ok := <-messages:
		if !ok {
			r.t.Fatal("the subscription ended")
		}
		return msg
	case <-time.After(patience):
		r.t.Fatalf("no message within %v", patience)
	}
	return nil
}

func newMessage(payload string) *message.Message {
	return message.NewMessage(watermill.NewUUID(), []byte(payload))
}

// series makes messages with the payloads 0, 1, 2 …, all for one topic.
func series(topic string, n int) (topics []string, msgs []*message.Message) {
	for i := range n {
		topics = append(topics, topic)
		msgs = append(msgs, newMessage(fmt.Sprint(i)))
	}
	return topics, msgs
}

// outage reports whether err says nothing about the message.
func outage(err error) bool {
	var refused *RefusedError
	return err != nil && !errors.As(err, &refused)
}

// lines is a log that can be read while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// patience is how long anything may take that must happen, on a machine that is busy with other tests.
const patience = time.Minute

// eventually waits for ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}
