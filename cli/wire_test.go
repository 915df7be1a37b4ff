package cli_test

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/outbox"
)

// documentedValue is one row of the tables of values in docs/wire.md.
type documentedValue struct{ columnType, value, wire string }

func documentedValues(t *testing.T, dialect string) (all []documentedValue) {
	t.Helper()
	page, err := os.ReadFile("../docs/wire.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "<!-- values: "+dialect+" -->\n")
	for line := range strings.Lines(rest) {
		if !strings.HasPrefix(line, "|") {
			break
		}
		if cells := strings.Split(line, "`"); len(cells) == 7 {
			all = append(all, documentedValue{cells[1], cells[3], cells[5]})
		}
	}
	if len(all) < 15 {
		t.Fatalf("docs/wire.md documents %d values for %s", len(all), dialect)
	}
	return all
}

// What docs/wire.md says of each type is what the outbox writes.
func TestDocumentedValues(t *testing.T) {
	t.Parallel()
	postgres, _ := testdb.Postgres(t)
	sqlite, _ := testdb.SQLite(t)
	for dialect, db := range map[migrations.Dialect]*sql.DB{migrations.Postgres: postgres, migrations.SQLite: sqlite} {
		values := documentedValues(t, string(dialect))
		columns, literals := "", ""
		for i, v := range values {
			columns += fmt.Sprintf(", v%d %s", i, v.columnType)
			literals += ", " + v.value
		}
		if _, err := migrations.Up(t.Context(), db, dialect); err != nil {
			t.Fatal(err)
		}
		for _, statement := range []string{
			`CREATE TABLE t (slug varchar(10) PRIMARY KEY` + columns + `)`,
			`INSERT INTO t VALUES ('k'` + literals + `)`,
			mustRelay(t, "migrate", "table", "t", "--dialect", string(dialect)),
		} {
			if _, err := db.ExecContext(t.Context(), statement); err != nil {
				t.Fatalf("%s: %v\n%s", dialect, err, statement)
			}
		}
		saved, deleted := saveAndDelete(t, db, dialect)
		have := members(saved.Data)
		for i, v := range values {
			if wire := have[fmt.Sprintf("v%d", i)]; wire != v.wire {
				t.Errorf("%s: %s %s is sent as %s, docs/wire.md says %s", dialect, v.columnType, v.value, wire, v.wire)
			}
		}
		gone := members(deleted.Data)
		delete(gone, event.FieldUpdated)
		equal(t, "data of a DELETE", map[string]string{"id": `"k"`, "slug": `"k"`, event.FieldRevision: "2"}, gone)
	}
}

// saveAndDelete returns the two events of the row k.
func saveAndDelete(t *testing.T, db *sql.DB, dialect migrations.Dialect) (saved, deleted event.Event) {
	t.Helper()
	ob, err := outbox.New(outbox.Config{Dialect: dialect, Entities: []outbox.Entity{{ID: "t", Table: "t", Key: "slug"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range []func(context.Context, *outbox.Tx) error{
		func(_ context.Context, tx *outbox.Tx) error { return tx.Saved("t", "k") },
		func(ctx context.Context, tx *outbox.Tx) error { return tx.Delete(ctx, "t", "k") },
	} {
		if err := ob.InTx(t.Context(), db, change); err != nil {
			t.Fatal(err)
		}
	}
	for i, e := range []*event.Event{&saved, &deleted} {
		var body []byte
		if err := db.QueryRowContext(t.Context(), `SELECT payload FROM outbox WHERE id = $1`, i+1).Scan(&body); err != nil {
			t.Fatal(err)
		}
		if *e, err = event.Decode(body); err != nil {
			t.Fatal(err)
		}
	}
	return saved, deleted
}

func members(object []byte) map[string]string {
	all := map[string]string{}
	for name, value := range event.Members(object) {
		all[string(name)] = string(value)
	}
	return all
}

// get waits for a message in a queue.
func (p *pipeline) get(queue string) (d amqp.Delivery) {
	p.t.Helper()
	eventually(p.t, func() string {
		var ok bool
		var err error
		if d, ok, err = p.server.Get(queue, true); err != nil {
			p.t.Fatal(err)
		}
		if !ok {
			return "no message in " + queue
		}
		return ""
	})
	return d
}

// What docs/wire.md says of properties and headers is what RabbitMQ gets.
func TestDocumentedMessages(t *testing.T) {
	t.Parallel()
	p := newPipeline(t)
	run := p.run()
	p.save(1, 1)
	sent := p.get(p.queue)
	id := sent.MessageId
	equal(t, "headers", amqp.Table{event.HeaderEventID: id, event.HeaderOutboxID: "1"}, sent.Headers)
	checkProperties(t, sent, "")
	equal(t, "routing key", p.entity, sent.RoutingKey)
	if len(id) != 36 || id[14] != '7' {
		t.Errorf("message id %q is no UUID of version 7", id)
	}
	p.exec(p.master, `INSERT INTO outbox (topic, payload, metadata) VALUES ('`+p.entity+`', '{}', '{"tenant": 7, "none": null}')`)
	foreign := p.get(p.queue)
	equal(t, "headers of a row that another program inserted", amqp.Table{"tenant": "7", event.HeaderOutboxID: "2"}, foreign.Headers)
	if len(foreign.MessageId) != 36 || foreign.MessageId[14] != '5' {
		t.Errorf("message id %q is not derived", foreign.MessageId)
	}
	run.exitsCleanly()

	consume := p.consume()
	p.bound()
	dead := func(reason, entity, body string) {
		t.Helper()
		letter := p.get(event.DeadLetterQueue(p.queue))
		checkProperties(t, letter, "864000000")
		equal(t, "routing key", "cqrs.dead_letter_"+p.queue+"."+entity, letter.RoutingKey)
		equal(t, "body", body, string(letter.Body))
		equal(t, "message id", id, letter.MessageId)
		equal(t, "reason", any(reason), letter.Headers[event.HeaderReason])
		equal(t, "a header it came with", any("kept"), letter.Headers["own"])
		if text, _ := letter.Headers[event.HeaderError].(string); text == "" || len(text) > 500 {
			t.Errorf("error %q", text)
		}
		at, _ := letter.Headers[event.HeaderFailedAt].(string)
		if when, err := time.Parse("2006-01-02T15:04:05Z", at); err != nil || time.Since(when).Abs() > time.Hour {
			t.Errorf("failed at %q", at)
		}
	}
	send := func(body string) string {
		t.Helper()
		err := p.server.PublishWithContext(t.Context(), "cqrs", p.entity, false, false, amqp.Publishing{
			MessageId: id, Headers: amqp.Table{"own": "kept"}, Body: []byte(body),
		})
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	dead("malformed", "unknown", send(`{"signal_type": `))
	dead("incomplete", "unknown", send(`{"signal_type":"SAVE","cqrs_id":"`+p.entity+`"}`))
	dead("signal", "unknown", send(`{"signal_type":"save","cqrs_id":"`+p.entity+`","instance_data":{},"instance_pk":1}`))
	dead("unknown", "unknown", send(`{"signal_type":"SAVE","cqrs_id":"elsewhere","instance_data":{},"instance_pk":1}`))
	dead("expired", p.entity, send(`{"signal_type":"SAVE","cqrs_id":"`+p.entity+`","instance_data":{},"instance_pk":1,"expires":"2020-01-02 03:04:05.5Z"}`))
	send(`{"own": [1, 2],"expires":"2090-01-02 03:04:05.5+03:00","instance_pk":1,"instance_data":{"id": 1},"cqrs_id":"` + p.entity + `","signal_type":"SAVE"}`)
	dead("retries", p.entity, `{"signal_type":"SAVE","cqrs_id":"`+p.entity+`","instance_data":{"id": 1},"previous_data":null,"instance_pk":1,`+
		`"correlation_id":null,"retries":3,"expires":"2090-01-02T00:04:05+00:00","meta":{},"own":[1, 2]}`)
	consume.exitsCleanly()
}

// bound waits until the replica has bound its dead letters, its last binding.
func (p *pipeline) bound() {
	p.t.Helper()
	probe := []byte("probe")
	eventually(p.t, func() string {
		err := p.server.PublishWithContext(p.t.Context(), "cqrs", event.DirectTopic(event.DeadLetterQueue(p.queue), p.entity), false, false, amqp.Publishing{Body: probe})
		if err != nil {
			p.t.Fatal(err)
		}
		q, err := p.server.QueueDeclare(event.DeadLetterQueue(p.queue), true, false, false, false, nil)
		if err != nil {
			p.t.Fatal(err)
		}
		if q.Messages == 0 {
			return "dead letters are not bound"
		}
		return ""
	})
	for { // some probes may have come since
		d, ok, err := p.server.Get(event.DeadLetterQueue(p.queue), true)
		if err != nil {
			p.t.Fatal(err)
		}
		if !ok || !bytes.Equal(d.Body, probe) {
			return
		}
	}
}

func checkProperties(t *testing.T, d amqp.Delivery, expiration string) {
	t.Helper()
	equal(t, "content type", "text/plain", d.ContentType)
	equal(t, "delivery mode", amqp.Persistent, d.DeliveryMode)
	equal(t, "expiration", expiration, d.Expiration)
	if time.Since(d.Timestamp).Abs() > time.Hour {
		t.Errorf("timestamp %v", d.Timestamp)
	}
	for what, value := range map[string]string{
		"content encoding": d.ContentEncoding, "correlation id": d.CorrelationId, "reply to": d.ReplyTo, "type": d.Type, "user": d.UserId, "app": d.AppId,
	} {
		equal(t, what, "", value)
	}
}
