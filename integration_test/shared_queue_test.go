package integration_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/lockstep-go/lockstep/broker/rabbitmq"
	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/migrations"
)

// djangoTopology declares what a django-cqrs replica does, with its arguments,
// and a binding of a model that this service knows nothing of.
func djangoTopology(t *testing.T, ch *amqp.Channel, exchange, queue string, models ...string) {
	t.Helper()
	dead := "dead_letter_" + queue
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(ch.ExchangeDeclare(exchange, "topic", true, false, false, false, nil))
	for _, name := range []string{queue, dead} {
		_, err := ch.QueueDeclare(name, true, false, false, false, nil)
		check(err)
	}
	for _, model := range models {
		check(ch.QueueBind(queue, model, exchange, false, nil))
		check(ch.QueueBind(queue, "cqrs."+queue+"."+model, exchange, false, nil))
		check(ch.QueueBind(dead, "cqrs."+dead+"."+model, exchange, false, nil))
	}
}

// A consumer joins a queue that a django-cqrs replica has declared and used: it
// takes what lies there and what comes, in any order and twice, and a model of
// which it knows nothing becomes a dead letter, not an obstacle.
func TestQueueSharedWithDjango(t *testing.T) {
	t.Parallel()
	name := "shared-" + uuid.NewString()[:8]
	conn, err := amqp.Dial(testdb.RabbitMQURL(t))
	if err != nil {
		t.Fatalf("no RabbitMQ (%v); start it with: scripts/services up rabbitmq", err)
	}
	defer func() { _ = conn.Close() }()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	djangoTopology(t, ch, name, name, "author", "stranger")
	t.Cleanup(func() {
		for _, queue := range []string{name, "dead_letter_" + name} {
			_, _ = ch.QueueDelete(queue, false, false, false)
		}
		_ = ch.ExchangeDelete(name, false, false)
	})
	bodies := capturedBodies(t, "author")
	bodies = append(bodies, bodies...)
	rand.Shuffle(len(bodies), func(i, j int) { bodies[i], bodies[j] = bodies[j], bodies[i] })
	send := func(key string, body []byte) {
		t.Helper()
		if err := ch.PublishWithContext(t.Context(), name, key, true, false,
			amqp.Publishing{ContentType: "text/plain", DeliveryMode: amqp.Persistent, Body: body}); err != nil {
			t.Fatal(err)
		}
	}
	stranger := []byte(`{"signal_type":"SAVE","cqrs_id":"stranger","instance_data":{"id":1},"previous_data":null,"instance_pk":1,"correlation_id":null,"retries":0,"expires":null,"meta":{}}`)
	send("stranger", stranger)
	for i, body := range bodies {
		key := "author"
		if i%2 == 0 {
			key = "cqrs." + name + ".author" // as retries and direct SYNCs come
		}
		send(key, body)
	}

	db, _ := testdb.Postgres(t)
	if _, err := migrations.Up(t.Context(), db, consumer.Postgres); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), `CREATE TABLE author_ref (id bigint PRIMARY KEY, name varchar(200) NOT NULL, publisher bigint,
		cqrs_revision bigint NOT NULL, cqrs_updated timestamptz NOT NULL)`); err != nil {
		t.Fatal(err)
	}
	broker, err := rabbitmq.Open(t.Context(), testdb.RabbitMQURL(t), rabbitmq.Config{Exchange: name})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = broker.Close() }()
	c, err := consumer.New(db, broker, consumer.Config{Queue: name})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Table("author", consumer.Table{Name: "author_ref"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	until(t, "all is settled", func() bool {
		s := c.Stats()
		return s.Applied+s.Duplicate+s.Stale+s.Superseded == int64(len(bodies)) && s.Dead == 1
	})
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}

	letter, ok, err := ch.Get("dead_letter_"+name, true)
	if err != nil || !ok || string(letter.Body) != string(stranger) || letter.Headers["lockstep-reason"] != "unknown" {
		t.Errorf("dead letter: %v %v %s %v, want the stranger's body and the reason", ok, err, letter.Body, letter.Headers)
	}
	want := []string{}
	for _, row := range capturedRows(t, "author") {
		want = append(want, fmt.Sprint(row["id"], " ", row["name"], " ", row["publisher"], " ", row["cqrs_revision"]))
	}
	have := []string{}
	rows, err := db.QueryContext(t.Context(), "SELECT id || ' ' || name || ' ' || coalesce(publisher::text, '<nil>') || ' ' || cqrs_revision FROM author_ref ORDER BY id")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			t.Fatal(err)
		}
		have = append(have, line)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("rows (-want +have):\n%s", diff)
	}
}

const captured = "../consumer/testdata/django-cqrs/"

func capturedBodies(t *testing.T, model string) (bodies [][]byte) {
	t.Helper()
	f, err := os.Open(captured + model + ".messages.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct {
			Body []byte `json:"body_b64"`
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, line.Body)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return bodies
}

func capturedRows(t *testing.T, model string) []map[string]any {
	t.Helper()
	text, err := os.ReadFile(captured + model + ".rows.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Rows []map[string]any }
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	return file.Rows
}
