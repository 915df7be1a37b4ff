package sql_test

import (
	stdsql "database/sql"
	"errors"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/broker/sql"
	"github.com/lockstep-go/lockstep/internal/testdb"
)

// patience is how long anything may take that must happen, on a machine that is busy with other tests.
const patience = time.Minute

// newRig returns the address of a broker of the test's own, whose tables lie in a schema that goes at
// its end, and a pool that works in that schema.
func newRig(t *testing.T) (db *stdsql.DB, at string) {
	t.Helper()
	db, dsn := testdb.Postgres(t)
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal("testdb's address is no URL")
	}
	q := u.Query()
	q.Set("schema", q.Get("search_path"))
	q.Del("search_path")
	u.RawQuery = q.Encode()
	return db, u.String()
}

func open(t *testing.T, at string, cfg sql.Config) *sql.Broker {
	t.Helper()
	b, err := sql.Open(t.Context(), at, cfg)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return b
}

func bind(t *testing.T, b *sql.Broker, queue string, topics ...string) {
	t.Helper()
	if err := b.Bind(t.Context(), queue, topics...); err != nil {
		t.Fatalf("Bind: %v", err)
	}
}

// publish sends messages on the topic that the tests use.
func publish(t *testing.T, b *sql.Broker, bodies ...string) {
	t.Helper()
	if err := b.Publish("account", messages(bodies...)...); err != nil {
		t.Fatalf("Publish: %v", err)
	}
}

func messages(bodies ...string) []*message.Message {
	msgs := make([]*message.Message, len(bodies))
	for i, body := range bodies {
		msgs[i] = message.NewMessage(watermill.NewUUID(), []byte(body))
	}
	return msgs
}

func numbers(from, to int) (bodies []string) {
	for i := from; i < to; i++ {
		bodies = append(bodies, strconv.Itoa(i))
	}
	return bodies
}

// subscribe reads the queue that the tests use.
func subscribe(t *testing.T, b *sql.Broker) <-chan *message.Message {
	t.Helper()
	out, err := b.Subscribe(t.Context(), "billing")
	if err != nil {
		t.Fatalf("Subscribe: %v", err)
	}
	return out
}

func next(t *testing.T, from <-chan *message.Message) *message.Message {
	t.Helper()
	select {
	case msg, ok := <-from:
		if !ok {
			t.Fatal("the channel was closed, want a message")
		}
		return msg
	case <-time.After(patience):
		t.Fatal("no message came")
	}
	return nil
}

func take(t *testing.T, from <-chan *message.Message, n int) (bodies []string) {
	t.Helper()
	for range n {
		msg := next(t, from)
		bodies = append(bodies, string(msg.Payload))
		msg.Ack()
	}
	return bodies
}

func nothing(t *testing.T, from <-chan *message.Message, while time.Duration) {
	t.Helper()
	select {
	case msg, ok := <-from:
		if ok {
			t.Fatalf("message %q came, want none", msg.Payload)
		}
		t.Fatal("the channel was closed")
	case <-time.After(while):
	}
}

// until waits for what must happen.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for !is() {
		select {
		case <-deadline:
			t.Fatalf("%s: not within %v", what, patience)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func execute(t *testing.T, db *stdsql.DB, query string) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), query); err != nil {
		t.Fatalf("%v in: %s", err, query)
	}
}

// stored is how many messages there are, in all queues and hands.
func stored(t *testing.T, db *stdsql.DB) (n int) {
	t.Helper()
	if err := db.QueryRowContext(t.Context(), `SELECT count(*) FROM messages`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// refusal is the error's own view of itself.
func refusal(err error) string {
	var refused *sql.RefusedError
	switch {
	case err == nil:
		return "stored"
	case errors.As(err, &refused) && refused.Unroutable() && !refused.Permanent():
		return "unroutable"
	case errors.As(err, &refused) && refused.Permanent():
		return "refused"
	}
	return "outage"
}
