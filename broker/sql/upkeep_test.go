package sql_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/broker/sql"
	"github.com/lockstep-go/lockstep/event"
)

// TestDelayOutlivesProcess: a delayed message is the database's matter, not its sender's.
func TestDelayOutlivesProcess(t *testing.T) {
	t.Parallel()
	db, at := newRig(t)
	b := open(t, at, sql.Config{})
	bind(t, b, "billing", "account")
	msg := message.NewMessage("1", []byte("later"))
	msg.Metadata.Set(event.MetadataTTL, "60000")
	if err := b.PublishAfter(t.Context(), 3*time.Second, "account", msg); err != nil {
		t.Fatalf("PublishAfter: %v", err)
	}
	life := ""
	if err := db.QueryRowContext(t.Context(), `SELECT expires_at - due_at FROM messages`).Scan(&life); err != nil || life != "00:01:00" {
		t.Errorf("it lives for %q, %v, want a minute from the end of the delay", life, err)
	}
	if n, _, err := b.Inspect(t.Context(), "billing"); n != 0 || err != nil {
		t.Errorf("Inspect: %d messages, %v; want none before its time", n, err)
	}
	if err := b.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if diff := cmp.Diff([]string{"later"}, take(t, subscribe(t, open(t, at, sql.Config{})), 1)); diff != "" {
		t.Errorf("delivered (-want +have):\n%s", diff)
	}
	if err := open(t, at, sql.Config{}).PublishAfter(t.Context(), time.Second, "author", msg); refusal(err) != "unroutable" {
		t.Errorf("PublishAfter to no queue: %v, want unroutable", err)
	}
}

// TestExpiredGo: nobody has to consume a queue for its expired messages to be deleted.
func TestExpiredGo(t *testing.T) {
	t.Parallel()
	db, at := newRig(t)
	b := open(t, at, sql.Config{Lease: time.Second})
	bind(t, b, "letters", "account")
	for i, ttl := range []string{"1", "86400000"} {
		msgs := messages(numbers(0, 1500)...)
		for _, msg := range msgs {
			msg.Metadata.Set(event.MetadataTTL, ttl)
		}
		if err := b.Publish("account", msgs...); err != nil {
			t.Fatalf("Publish %d: %v", i, err)
		}
	}
	until(t, "the expired half is deleted", func() bool { return stored(t, db) == 1500 })
	<-time.After(500 * time.Millisecond)
	if n, _, err := b.Inspect(t.Context(), "letters"); n != 1500 || err != nil {
		t.Errorf("Inspect: %d messages, %v; want those that live on", n, err)
	}
}

// TestQueueDeletedUnderConsumer: a queue that somebody else deletes is made again, with its bindings.
func TestQueueDeletedUnderConsumer(t *testing.T) {
	t.Parallel()
	_, at := newRig(t)
	b, other := open(t, at, sql.Config{Lease: time.Second}), open(t, at, sql.Config{})
	bind(t, b, "billing", event.QueueTopics("billing", "account")...)
	out := subscribe(t, b)
	publish(t, other, "1")
	take(t, out, 1)
	if err := other.DeleteQueue(t.Context(), "billing"); err != nil {
		t.Fatalf("DeleteQueue: %v", err)
	}
	until(t, "the queue is bound again", func() bool {
		is, err := other.Bound(t.Context(), event.DirectTopic("billing", "account"))
		return is && err == nil
	})
	publish(t, other, "2")
	if diff := cmp.Diff([]string{"2"}, take(t, out, 1)); diff != "" {
		t.Errorf("bodies (-want +have):\n%s", diff)
	}
}

// TestDeleteBesidePublish: nothing is left of a deleted queue, whatever is being stored for it, and whatever
// the isolation of transactions is by default.
func TestDeleteBesidePublish(t *testing.T) {
	t.Parallel()
	for name, parameter := range map[string]string{"as it is": "", "repeatable read": "&default_transaction_isolation=repeatable%20read"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, at := newRig(t)
			b, other := open(t, at+parameter, sql.Config{}), open(t, at, sql.Config{})
			done := make(chan struct{})
			go func() {
				defer close(done)
				for range 200 {
					if err := b.Publish("account", messages(numbers(0, 20)...)...); err != nil {
						t.Errorf("Publish: %v", err)
					}
				}
			}()
			for range 60 {
				bind(t, other, "billing", "account")
				if err := other.DeleteQueue(t.Context(), "billing"); err != nil {
					t.Errorf("DeleteQueue: %v", err)
				}
			}
			<-done
			if n := stored(t, db); n != 0 {
				t.Errorf("%d messages of a deleted queue are left", n)
			}
		})
	}
}

// TestDeleteBesideBind: one who binds a queue and one who deletes it do not lock each other out.
func TestDeleteBesideBind(t *testing.T) {
	t.Parallel()
	_, at := newRig(t)
	b, other := open(t, at, sql.Config{}), open(t, at, sql.Config{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 200 {
			if err := b.Bind(context.Background(), "billing", "account", "author"); err != nil {
				t.Errorf("Bind: %v", err)
			}
		}
	}()
	for going := true; going; {
		if err := other.DeleteQueue(t.Context(), "billing"); err != nil {
			t.Errorf("DeleteQueue: %v", err)
		}
		select {
		case <-done:
			going = false
		default:
		}
	}
}

// TestForeignMetadata: a row that somebody else wrote does not stop the queue.
func TestForeignMetadata(t *testing.T) {
	t.Parallel()
	db, at := newRig(t)
	b := open(t, at, sql.Config{})
	bind(t, b, "billing", "account")
	execute(t, db, `INSERT INTO messages (queue, uuid, payload, metadata) SELECT id, '1', 'odd', '[1, 2]' FROM queues`)
	publish(t, b, "next")
	if diff := cmp.Diff([]string{"odd", "next"}, take(t, subscribe(t, b), 2)); diff != "" {
		t.Errorf("bodies (-want +have):\n%s", diff)
	}
}

// TestErrorHasTheSQLOfMissingTables: where the tables cannot be made, the error has what makes them; that SQL can be run, also
// again, and then the broker works in spite of it.
func TestErrorHasTheSQLOfMissingTables(t *testing.T) {
	t.Parallel()
	db, at := newRig(t)
	b := open(t, at, sql.Config{})
	bind(t, b, "billing", "account")
	publish(t, b, "1")
	schema := ""
	if err := db.QueryRowContext(t.Context(), `SELECT current_schema()`).Scan(&schema); err != nil {
		t.Fatal(err)
	}
	execute(t, db, sql.Tables(schema))
	if diff := cmp.Diff([]string{"1"}, take(t, subscribe(t, b), 1)); diff != "" {
		t.Errorf("after the tables were made again (-want +have):\n%s", diff)
	}

	if is, err := open(t, at, sql.Config{Schema: "none"}).Bound(t.Context(), "account"); !is || err != nil {
		t.Errorf("the URL's schema does not go before the Config's: %v, %v", is, err)
	}
	foreign := strings.Replace(at, "schema="+schema, "schema=pg_catalog", 1) // this role may not write to it
	_, err := sql.Open(t.Context(), foreign, sql.Config{})
	if !errors.Is(err, sql.ErrTables) || !strings.Contains(err.Error(), `CREATE TABLE IF NOT EXISTS "pg_catalog".messages`) {
		t.Errorf("tables that may not be made: %v, want ErrTables with the SQL", err)
	}
}

// TestSubscriptionEndsBesideItsRenewal: a consumer that leaves while its lease is being renewed is gone.
func TestSubscriptionEndsBesideItsRenewal(t *testing.T) {
	t.Parallel()
	db, at := newRig(t)
	b := open(t, at, sql.Config{Lease: 4 * time.Second})
	bind(t, b, "billing", "account")
	ctx, cancel := context.WithCancel(t.Context())
	out, err := b.Subscribe(ctx, "billing")
	if err != nil {
		t.Fatalf("Subscribe: %v", err)
	}
	execute(t, db, `CREATE SEQUENCE renewals`)
	execute(t, db, `CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	PERFORM nextval(format('%I.renewals', tg_table_schema)::regclass), pg_sleep(0.5);
	RETURN new;
END $$`)
	execute(t, db, `CREATE TRIGGER linger BEFORE INSERT ON consumers FOR EACH ROW EXECUTE FUNCTION linger()`)
	until(t, "the lease is being renewed", func() bool {
		var renewing bool
		err := db.QueryRowContext(t.Context(), `SELECT is_called FROM renewals`).Scan(&renewing)
		return err == nil && renewing
	})
	cancel()
	for range out {
		t.Error("a message came, want none")
	}
	consumers := func() int {
		_, n, err := b.Inspect(t.Context(), "billing")
		if err != nil {
			t.Fatalf("Inspect: %v", err)
		}
		return n
	}
	until(t, "the consumer is gone", func() bool { return consumers() == 0 })
	<-time.After(time.Second) // a renewal that goes on would be over
	if n := consumers(); n != 0 {
		t.Errorf("Inspect: %d consumers, want none", n)
	}
}

// TestQueueDeletedBesideItsUpkeep: a queue that this Broker itself deletes, while it looks whether it is
// whole, is not made again.
func TestQueueDeletedBesideItsUpkeep(t *testing.T) {
	t.Parallel()
	db, at := newRig(t)
	b := open(t, at, sql.Config{Lease: time.Second})
	bind(t, b, "billing", "account")
	subscribe(t, b)
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	for _, statement := range []string{`DELETE FROM queues`, `LOCK TABLE bindings IN ACCESS EXCLUSIVE MODE`} {
		if _, err := tx.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "it looks whether the queue is whole", func() bool {
		var looks bool
		err := db.QueryRowContext(t.Context(), `SELECT EXISTS (SELECT FROM pg_stat_activity
			WHERE wait_event_type = 'Lock' AND query LIKE '%cardinality%' AND query LIKE '%' || current_schema() || '%')`).Scan(&looks)
		return err == nil && looks
	})
	deleted := make(chan error, 1)
	go func() { deleted <- b.DeleteQueue(t.Context(), "billing") }()
	<-time.After(100 * time.Millisecond) // it waits, too
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := <-deleted; err != nil {
		t.Fatalf("DeleteQueue: %v", err)
	}
	<-time.After(500 * time.Millisecond)
	var noQueue *sql.NoQueueError
	if _, _, err := b.Inspect(t.Context(), "billing"); !errors.As(err, &noQueue) {
		t.Errorf("Inspect: %v, want that there is no queue", err)
	}
}
