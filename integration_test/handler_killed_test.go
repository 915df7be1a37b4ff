package integration_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/lockstep-go/lockstep/broker"
	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/outbox"
)

// These tell this program that it is to be a replica's service with a handler.
const (
	handlerDSN, handlerBroker   = "LOCKSTEP_TEST_HANDLER_DSN", "LOCKSTEP_TEST_HANDLER_BROKER"
	handlerQueue, handlerEntity = "LOCKSTEP_TEST_HANDLER_QUEUE", "LOCKSTEP_TEST_HANDLER_ENTITY"
)

// inTheHandler is what it says then.
const inTheHandler = "in the handler"

// handleUntilKilled is a service whose handler does not come to its end.
func handleUntilKilled(dsn string) {
	db, err := sql.Open("postgres", dsn)
	if err != nil {
		panic(err)
	}
	b, err := broker.Open(context.Background(), os.Getenv(handlerBroker), broker.Options{})
	if err != nil {
		panic(err)
	}
	c, err := noting(db, b, os.Getenv(handlerQueue), os.Getenv(handlerEntity), func() {
		fmt.Fprintln(os.Stderr, inTheHandler)
		select {}
	})
	if err == nil {
		err = c.Run(context.Background())
	}
	panic(err)
}

// noting is a consumer whose handler notes each call in a table of the replica's.
func noting(db *sql.DB, b broker.Broker, queue, entity string, then func()) (*consumer.Consumer, error) {
	c, err := consumer.New(db, b, consumer.Config{Queue: queue})
	if err != nil {
		return nil, err
	}
	return c, consumer.Handle(c, entity, func(ctx context.Context, tx consumer.Tx, ev consumer.Event[struct{ Name string }]) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO calls (name) VALUES ($1)", ev.Data.Name)
		then()
		return err
	})
}

// A process dies in a handler: what that wrote is gone, the event comes again, and is
// handled once.
func TestKilledInAHandler(t *testing.T) {
	t.Parallel()
	r := newRig(t, account())
	execute(t, r.replica, "CREATE TABLE calls (name text NOT NULL)")
	queue := "it_handler_" + r.suffix
	if err := r.control.Bind(t.Context(), queue, event.QueueTopics(queue, r.id("account"))...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.admin.do(t, func(ch *amqp.Channel) error {
			_, err := ch.QueueDelete(queue, false, false, false)
			if err == nil {
				_, err = ch.QueueDelete(event.DeadLetterQueue(queue), false, false, false)
			}
			return err
		})
	})
	r.startRelay(t)
	r.startConsumer(t) // the account's table follows as ever
	dying := exec.CommandContext(t.Context(), os.Args[0])
	dying.Env = append(os.Environ(), handlerDSN+"="+r.replicaDSN, handlerBroker+"="+r.brokerURL, handlerQueue+"="+queue, handlerEntity+"="+r.id("account"))
	var said output
	dying.Stderr = &said
	if err := dying.Start(); err != nil {
		t.Fatal(err)
	}
	r.do(t, func(ctx context.Context, tx *outbox.Tx) error { return r.put(ctx, tx, 1, "handled once") })
	said.await(t, inTheHandler, 0)
	_ = dying.Process.Kill()
	if err := dying.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Fatalf("the service ended with %v before it was killed:\n%s", err, said.text())
	}
	if n := number(t, r.replica, "SELECT count(*) FROM calls"); n != 0 {
		t.Errorf("%d calls are noted, want none of the one that did not end", n)
	}
	b, err := r.connect(t.Context(), r.brokerURL)
	if err != nil {
		t.Fatal(err)
	}
	c, err := noting(r.pool(t, "handler", r.replica, r.replicaDSN), b, queue, r.id("account"), func() {})
	if err != nil {
		t.Fatal(err)
	}
	r.run(t, "handler", b, c.Run)
	until(t, "the event is handled", func() bool { return c.Stats().Applied == 1 })
	r.settled(t)
	if have := lines(t, r.replica, "SELECT name FROM calls"); len(have) != 1 || have[0] != "handled once" {
		t.Errorf("the calls are %q, want one", have)
	}
}
