package consumer_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	_ "modernc.org/sqlite"

	"github.com/lockstep-go/lockstep/broker/memory"
	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/migrations"
)

// example opens a database and a broker in memory.
func example(ctx context.Context) (*sql.DB, *memory.Broker, error) {
	db, err := sql.Open("sqlite", "file::memory:")
	if err != nil {
		return nil, nil, err
	}
	db.SetMaxOpenConns(1)
	if _, err := migrations.Up(ctx, db, migrations.SQLite); err != nil {
		return nil, nil, err
	}
	broker, err := memory.Open(ctx, memory.Config{})
	return db, broker, err
}

// A handler's work and the note that the event was seen are one transaction.
func ExampleHandle() {
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	db, broker, err := example(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	c, err := consumer.New(db, broker, consumer.Config{Queue: "billing"})
	if err != nil {
		fmt.Println(err)
		return
	}

	type Author struct {
		Name string     `json:"name"`
		Born event.Time `json:"born"`
	}
	err = consumer.Handle(c, "author", func(ctx context.Context, tx consumer.Tx, ev consumer.Event[Author]) error {
		if ev.Data.Name == "" && ev.Kind != consumer.Delete {
			return consumer.Permanent(errors.New("an author without a name"))
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO audit (line) VALUES (?)`, fmt.Sprintf("%s %s %s", ev.Kind, ev.Key, ev.Data.Name))
		return err
	}, consumer.HandlerOptions{MaxRetries: 5, RetryDelay: time.Second})
	if err != nil {
		fmt.Println(err)
		return
	}

	if _, err := db.ExecContext(ctx, `CREATE TABLE audit (line text)`); err != nil {
		fmt.Println(err)
		return
	}
	for revision, name := range []string{"Ada", "Ada", "Ada Lovelace"} {
		body := fmt.Sprintf(`{"signal_type":"SAVE","cqrs_id":"author","instance_pk":7,
			"instance_data":{"name":%q,"born":"1815-12-10","cqrs_revision":%d,"cqrs_updated":"2026-01-02 03:04:05+00:00"}}`, name, max(revision, 1))
		o, err := c.Apply(ctx, message.NewMessage(watermill.NewUUID(), []byte(body)))
		fmt.Println(o.Result, err)
	}
	var lines string
	err = db.QueryRowContext(ctx, `SELECT group_concat(line, '; ') FROM audit`).Scan(&lines)
	fmt.Println(lines, err)
	// Output:
	// applied <nil>
	// duplicate <nil>
	// applied <nil>
	// create 7 Ada; update 7 Ada Lovelace <nil>
}

// In a router of Watermill's, message by message, with its middlewares.
func ExampleConsumer_HandleMessage() {
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	db, broker, err := example(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	c, err := consumer.New(db, broker, consumer.Config{Queue: "billing"})
	if err != nil {
		fmt.Println(err)
		return
	}
	done := make(chan string)
	err = consumer.HandleNoDB(c, "author", func(_ context.Context, ev consumer.Event[struct{ Name string }]) error {
		done <- ev.Data.Name
		return nil
	})
	router, routerErr := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	if err := errors.Join(err, routerErr, c.Check(ctx), c.Bind(ctx)); err != nil {
		fmt.Println(err)
		return
	}
	router.AddConsumerHandler("billing", "billing", broker, c.HandleMessage)
	go func() { _ = router.Run(ctx) }()
	<-router.Running()

	body := `{"signal_type":"SAVE","cqrs_id":"author","instance_pk":7,"instance_data":{"Name":"Ada","cqrs_revision":1,"cqrs_updated":"2026-01-02 03:04:05+00:00"}}`
	if err := broker.Publish("author", message.NewMessage(watermill.NewUUID(), []byte(body))); err != nil {
		fmt.Println(err)
	}
	fmt.Println(<-done)
	fmt.Println(errors.Join(router.Close(), c.Close()))
	// Output:
	// Ada
	// <nil>
}
