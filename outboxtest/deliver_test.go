package outboxtest_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/outboxtest"
)

type author struct{ Name string }

// deliveries delivers to a consumer of tables (account and card) and a handler (author).
func deliveries(t *testing.T, open func(testing.TB) (*sql.DB, string), d consumer.Dialect, timeType string) (*outboxtest.Delivery, *sql.DB) {
	t.Helper()
	c, db := delivered(t, open, d, timeType)
	return outboxtest.NewDelivery(t, c), db
}

func delivered(t *testing.T, open func(testing.TB) (*sql.DB, string), d consumer.Dialect, timeType string) (*consumer.Consumer, *sql.DB) {
	t.Helper()
	db, _ := open(t)
	if _, err := migrations.Up(t.Context(), db, d); err != nil {
		t.Fatal(err)
	}
	_, err := db.ExecContext(t.Context(), `CREATE TABLE account_ref (id bigint PRIMARY KEY, name varchar(10) NOT NULL CHECK (name <> 'bad'),
		cqrs_revision bigint NOT NULL, cqrs_updated `+timeType+` NOT NULL)`)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.ExecContext(t.Context(), `CREATE TABLE card_ref (id bigint PRIMARY KEY, account bigint NOT NULL,
		cqrs_revision bigint NOT NULL, cqrs_updated `+timeType+` NOT NULL, FOREIGN KEY (account) REFERENCES account_ref (id))`)
	if err != nil {
		t.Fatal(err)
	}
	c, err := consumer.New(db, outboxtest.NoBroker{}, consumer.Config{Queue: "billing", Ignore: []string{"old"}})
	if err != nil {
		t.Fatal(err)
	}
	fails := func(_ context.Context, _ consumer.Tx, ev consumer.Event[author]) error {
		switch ev.Data.Name {
		case "never":
			return consumer.Permanent(errors.New("never"))
		case "later":
			return consumer.RetryAfter(time.Hour, errors.New("later"))
		case "panic":
			panic("boom")
		}
		return nil
	}
	err = errors.Join(
		c.Table("account", consumer.Table{Name: "account_ref", MaxRetries: 3}),
		c.Table("card", consumer.Table{Name: "card_ref"}),
		consumer.Handle(c, "author", fails, consumer.HandlerOptions{OnlyDirectSyncs: true}),
	)
	if err != nil {
		t.Fatal(err)
	}
	return c, db
}

// TestDeliver: each outcome that a consumer knows is told, for tables and
// handlers.
func TestDeliver(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(t *testing.T) (*outboxtest.Delivery, *sql.DB){
		"postgres": func(t *testing.T) (*outboxtest.Delivery, *sql.DB) {
			t.Helper()
			return deliveries(t, testdb.Postgres, consumer.Postgres, "timestamptz")
		},
		"mariadb": func(t *testing.T) (*outboxtest.Delivery, *sql.DB) {
			t.Helper()
			return deliveries(t, testdb.MariaDB, consumer.MySQL, "datetime(6)")
		},
		"sqlite": func(t *testing.T) (*outboxtest.Delivery, *sql.DB) {
			t.Helper()
			return deliveries(t, testdb.SQLite, consumer.SQLite, "text")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, _ := open(t)
			for _, entity := range []string{"account", "author"} {
				ev := func(revision int64, name string) outboxtest.Event {
					return outboxtest.Event{Entity: entity, Key: "1", Revision: revision, Data: map[string]any{"id": 1, "name": name}}
				}
				d.Require(consumer.Applied, ev(2, "Ada"))
				d.Require(consumer.Duplicate, ev(2, "Ada"))
				d.Require(consumer.Stale, ev(1, "Ada"))
				if o := d.Require(consumer.Applied, ev(5, "Ada")); !o.Gap {
					t.Errorf("%s: no gap was told", entity)
				}
				d.Require(consumer.Applied, outboxtest.Event{Entity: entity, Key: "1", Revision: 6, Signal: event.Delete})
				d.Require(consumer.Stale, ev(5, "Ada"))
			}
			if o := d.Require(consumer.Retried, outboxtest.Event{Entity: "account", Key: "2", Revision: 1, Data: map[string]any{"id": 2, "name": "bad"}}); o.Delay != 2*time.Second || o.Err == nil {
				t.Errorf("have %+v, want a delay of 2 s", o)
			}
			card := outboxtest.Event{Entity: "card", Key: "1", Revision: 1, Data: map[string]any{"id": 1, "account": 8}}
			d.Require(consumer.Parked, card)
			d.Require(consumer.Applied, outboxtest.Event{Entity: "account", Key: "8", Revision: 1, Data: map[string]any{"id": 8, "name": "x"}})
			d.Require(consumer.Applied, card)
			for _, tc := range []struct {
				name   string
				result consumer.Result
				delay  time.Duration
				reason string
			}{{"never", consumer.Dead, 0, "permanent"}, {"later", consumer.Retried, time.Hour, ""}, {"panic", consumer.Retried, 2 * time.Second, ""}} {
				o := d.Require(tc.result, outboxtest.Event{Entity: "author", Key: "3", Revision: 1, Data: map[string]any{"name": tc.name}})
				if o.Delay != tc.delay || o.Reason != tc.reason || !strings.Contains(o.Err.Error(), strings.Replace(tc.name, "panic", "boom", 1)) {
					t.Errorf("%s: have %+v", tc.name, o)
				}
			}
			sync := outboxtest.Event{Entity: "author", Key: "4", Revision: 1, Signal: event.Sync, Data: map[string]any{"name": "x"}}
			d.Require(consumer.Ignored, sync)
			sync.Metadata = map[string]string{event.HeaderQueue: "billing"}
			d.Require(consumer.Applied, sync)
			d.Require(consumer.Ignored, outboxtest.Event{Entity: "old", Key: "1", Revision: 1})
			if o := d.Require(consumer.Dead, outboxtest.Event{Entity: "stranger", Key: "1", Revision: 1}); o.Reason != "unknown" {
				t.Errorf("have %+v, want reason unknown", o)
			}
			if o := d.DeliverMessage(message.NewMessage("", []byte("{"))); o.Result != consumer.Dead || o.Reason != "malformed" {
				t.Errorf("have %+v, want malformed", o)
			}
			last := fmt.Sprintf(`{"signal_type":"SAVE","cqrs_id":"account","instance_data":{},"instance_pk":1,"retries":%d}`, 3)
			if o := d.Require(consumer.Dead, outboxtest.Event{Payload: []byte(last)}); o.Reason != "retries" {
				t.Errorf("have %+v, want reason retries", o)
			}
		})
	}
}
