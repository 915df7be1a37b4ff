package consumer

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/lockstep-go/lockstep/broker/rabbitmq"
	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/testdb"
)

// djangoPeer is a django-cqrs replica as RabbitMQ sees it: what it declares, and
// how it gives back what it fails with.
type djangoPeer struct {
	t     *testing.T
	conn  *amqp.Connection
	queue string // and exchange
}

func newDjangoPeer(t *testing.T) *djangoPeer {
	t.Helper()
	conn, err := amqp.Dial(testdb.RabbitMQURL(t))
	if err != nil {
		t.Fatalf("no RabbitMQ (%v); start it with: scripts/services up rabbitmq", err)
	}
	p := &djangoPeer{t, conn, "shared." + strings.ToLower(rand.Text())}
	t.Cleanup(func() {
		defer func() { _ = conn.Close() }()
		ch, err := conn.Channel()
		if err != nil {
			return
		}
		for _, queue := range []string{p.queue, p.dead()} {
			_, _ = ch.QueueDelete(queue, false, false, false)
		}
		_ = ch.ExchangeDelete(p.queue, false, false)
	})
	return p
}

func (p *djangoPeer) dead() string { return "dead_letter_" + p.queue }

// channel declares exchange, queues and bindings with the arguments that
// django-cqrs gives, which the server holds against what is there.
func (p *djangoPeer) channel(models ...string) *amqp.Channel {
	p.t.Helper()
	ch, err := p.conn.Channel()
	check := func(err error) {
		p.t.Helper()
		if err != nil {
			p.t.Fatalf("django-cqrs could not declare: %v", err)
		}
	}
	check(err)
	check(ch.ExchangeDeclare(p.queue, "topic", true, false, false, false, nil))
	for _, name := range []string{p.queue, p.dead()} {
		_, err := ch.QueueDeclare(name, true, false, false, false, nil)
		check(err)
	}
	for _, model := range models {
		check(ch.QueueBind(p.queue, model, p.queue, false, nil))
		check(ch.QueueBind(p.queue, "cqrs."+p.queue+"."+model, p.queue, false, nil))
		check(ch.QueueBind(p.dead(), "cqrs."+p.dead()+"."+model, p.queue, false, nil))
	}
	return ch
}

func (p *djangoPeer) send(ch *amqp.Channel, key string, body []byte) {
	p.t.Helper()
	err := ch.PublishWithContext(p.t.Context(), p.queue, key, true, false,
		amqp.Publishing{ContentType: "text/plain", DeliveryMode: amqp.Persistent, Body: body})
	if err != nil {
		p.t.Errorf("publish: %v", err)
	}
}

// fail takes up to n deliveries of the queue and fails with each: it publishes it
// again for another attempt and drops the original. What else it was given goes back. It
// ends earlier when nothing that it could fail with has come for a while.
func (p *djangoPeer) fail(n int, while time.Duration, models ...string) (failed int) {
	ch := p.channel(models...)
	defer func() { _ = ch.Close() }()
	if err := ch.Qos(20, 0, false); err != nil {
		p.t.Fatal(err)
	}
	deliveries, err := ch.ConsumeWithContext(p.t.Context(), p.queue, "django", false, false, false, false, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	idle := time.NewTimer(while)
	defer idle.Stop()
	for failed < n {
		select {
		case d := <-deliveries:
			if !bytes.Contains(d.Body, []byte(`"retries":0`)) { // it has failed once already
				_ = d.Nack(false, true)
				continue
			}
			model := d.RoutingKey[strings.LastIndexByte(d.RoutingKey, '.')+1:]
			p.send(ch, "cqrs."+p.queue+"."+model, bytes.Replace(d.Body, []byte(`"retries":0`), []byte(`"retries":1`), 1))
			_ = d.Nack(false, false)
			failed++
			idle.Reset(while)
		case <-idle.C:
			return failed
		}
	}
	return failed
}

// goldenRig is a consumer of all models whose traffic was captured.
func goldenRig(t *testing.T, d Dialect) *rig {
	t.Helper()
	tables, ddl := map[string]Table{}, []string{}
	for model := range goldenTables {
		tables[model] = Table{Name: model + "_ref"}
		ddl = append(ddl, goldenDDL(model))
	}
	return newRig(t, d, tables, ddl...)
}

// requireGolden fails unless the tables hold what the captured traffic leaves.
func (r *rig) requireGolden(t *testing.T) {
	t.Helper()
	for model := range goldenTables {
		want, have := append(goldenRows(t, model), unsentDeletion[model]...), r.goldenStored(t, model+"_ref")
		for _, rows := range [][]map[string]string{want, have} {
			slices.SortFunc(rows, func(a, b map[string]string) int { return strings.Compare(a["id"], b["id"]) })
		}
		if diff := cmp.Diff(want, have); diff != "" {
			t.Errorf("%s (-want +have):\n%s", model, diff)
		}
	}
}

// TestQueueSharedWithDjango: a consumer and a django-cqrs replica work at one queue,
// whoever declares it first and again, for several models at a time. What either
// fails with comes to either, and a model of which nothing is known here becomes a
// dead letter as it is and no obstacle.
func TestQueueSharedWithDjango(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"django-cqrs", "Lockstep"} {
		t.Run(first+" declares first", func(t *testing.T) {
			t.Parallel()
			p := newDjangoPeer(t)
			r := goldenRig(t, Postgres)
			broker, err := rabbitmq.Open(t.Context(), testdb.RabbitMQURL(t), rabbitmq.Config{Exchange: p.queue})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = broker.Close() }()
			r.broker, r.cfg.Queue = broker, p.queue
			models := []string{"stranger"}
			for model := range goldenTables {
				models = append(models, model)
			}
			if first == "Lockstep" {
				if err := r.Bind(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			ch := p.channel(models...)
			const strangers = 20
			total := p.sendGolden(t, ch, strangers)

			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			failed := p.fail(30, enough, models...) // before there is another consumer, so that it gets some
			go func() { done <- r.Run(ctx) }()
			failed += p.fail(30, 2*time.Second, models...)
			eventually(t, "all is settled", func() bool {
				s := r.Stats()
				return s.Applied+s.Duplicate+s.Stale+s.Superseded == int64(total) && s.Dead == strangers
			})
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
			if failed < 30 || r.Stats().Retried != 0 {
				t.Errorf("django-cqrs failed with %d messages, and %d were retried here, want 30 at least and none", failed, r.Stats().Retried)
			}
			r.requireGolden(t)
			for range strangers {
				letter, ok, err := ch.Get(p.dead(), true)
				body := strings.Replace(string(letter.Body), `"retries":1`, `"retries":0`, 1)
				if err != nil || !ok || body != string(stranger) || letter.Headers[event.HeaderReason] != "unknown" {
					t.Fatalf("dead letter: %v %v %s %v, want the stranger's body and the reason", ok, err, letter.Body, letter.Headers)
				}
			}
			p.channel(models...) // when it starts anew, it finds nothing that it could not declare
			if q, err := ch.QueueDeclarePassive(p.queue, true, false, false, false, nil); err != nil || q.Messages != 0 {
				t.Errorf("the queue holds %d messages, %v", q.Messages, err)
			}
		})
	}
}

var stranger = []byte(`{"signal_type":"SAVE","cqrs_id":"stranger","instance_data":{"id":1},"previous_data":null,"instance_pk":1,"correlation_id":null,"retries":0,"expires":null,"meta":{}}`)

// sendGolden sends the captured traffic of all models, each message twice, in any
// order and on broadcast and direct keys, and strangers among it.
func (p *djangoPeer) sendGolden(t *testing.T, ch *amqp.Channel, strangers int) (total int) {
	t.Helper()
	type letter struct {
		model string
		body  []byte
	}
	var all []letter
	for model := range goldenTables {
		for _, m := range goldenMessages(t, model) {
			all = append(all, letter{model, m.Payload}, letter{model, m.Payload})
		}
	}
	total = len(all)
	for range strangers {
		all = append(all, letter{"stranger", stranger})
	}
	mathrand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for i, l := range all {
		key := l.model
		if i%2 == 0 {
			key = fmt.Sprintf("cqrs.%s.%s", p.queue, l.model)
		}
		p.send(ch, key, l.body)
	}
	return total
}
