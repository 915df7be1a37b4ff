package cli_test

import (
	"encoding/json"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/lockstep-go/lockstep/event"
)

func (p *pipeline) dump(t *testing.T, queue string) {
	eventually(t, func() string {
		d, ok, err := p.server.Get(queue, true)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return "no message"
		}
		body := string(d.Body)
		d.Acknowledger, d.Body = nil, nil
		j, _ := json.Marshal(d)
		t.Log(string(j), "\n", body)
		return ""
	})
}

func TestScratch(t *testing.T) {
	p := newPipeline(t)
	run := p.run()
	p.save(1, 1)
	p.exec(p.master, `INSERT INTO outbox (topic, payload, metadata) VALUES ('`+p.entity+`', '{}', '{"n":1,"x":null}')`)
	p.dump(t, p.queue)
	p.dump(t, p.queue)
	_ = run
	consume := p.consume()
	time.Sleep(500 * time.Millisecond)
	pub := func(body string, h amqp.Table) {
		p.server.Publish("cqrs", p.entity, false, false, amqp.Publishing{Body: []byte(body), Headers: h})
	}
	dead := event.DeadLetterQueue(p.queue)
	pub(`not json`, amqp.Table{"a": "b"})
	p.dump(t, dead)
	pub(`{"signal_type":"SAVE","cqrs_id":"other","instance_data":null,"instance_pk":1}`, nil)
	p.dump(t, dead)
	pub(`{"signal_type":"SAVE","cqrs_id":"`+p.entity+`","instance_data":{"id":1},"instance_pk":1,"expires":"2020-01-02 03:04:05Z"}`, nil)
	p.dump(t, dead)
	pub(`{"signal_type":"SAVE","cqrs_id":"`+p.entity+`","instance_data":{"id":1,"name":null,"cqrs_revision":0,"cqrs_updated":"2026-01-02 03:04:05+00:00"},"extra":[1, 2],"instance_pk":1,"expires":"2030-01-02 03:04:05.123+03:00"}`, nil)
	p.dump(t, dead)
	_ = consume
}
