package outbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/outbox"
	"github.com/lockstep-go/lockstep/relay"
)

func watermillMessage(uuid, payload string, metadata ...string) *message.Message {
	msg := message.NewMessage(uuid, []byte(payload))
	for i := 0; i < len(metadata); i += 2 {
		msg.Metadata.Set(metadata[i], metadata[i+1])
	}
	return msg
}

// row is an outbox row as a reader of the table sees it.
type row struct {
	Topic, Key, Payload string
	Metadata            map[string]string
}

func (m master) published(t *testing.T) (all []row) {
	t.Helper()
	for _, r := range m.rows(t) {
		metadata := map[string]string{}
		if err := json.Unmarshal([]byte(r.metadata), &metadata); err != nil {
			t.Fatalf("metadata %s: %v", r.metadata, err)
		}
		all = append(all, row{r.topic, r.key, string(r.payload), metadata})
	}
	return all
}

func TestPublishedMessagesArriveAsTheyAre(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		const binary = "\x00\xff\xfe\\x61\"{}'\n"
		const odd = `a "b" \ é 😀 <&>` + "\n\t\x01"
		m.inTx(t, func(_ context.Context, tx *outbox.Tx) error {
			received := watermillMessage("01HZX3D7E9A1", "", event.HeaderEventID, "other", event.HeaderOutboxID, "7", event.HeaderForce, "1")
			return errors.Join(
				tx.Publish("orders.placed", watermillMessage("7f3e", binary, odd, odd, event.MetadataKey, odd), received),
				tx.Publish("plain", watermillMessage("", `{}`)),
				tx.Publish("none"))
		})
		have := m.published(t)
		if len(have) != 3 {
			t.Fatalf("%d rows, want 3: %+v", len(have), have)
		}
		if made := have[2].Metadata[event.HeaderEventID]; len(made) != 36 || made[14] != '7' {
			t.Errorf("a message without UUID has the event id %q, want a UUIDv7", made)
		}
		delete(have[2].Metadata, event.HeaderEventID)
		want := []row{
			{"orders.placed", odd, binary, map[string]string{event.HeaderEventID: "7f3e", odd: odd}},
			{"orders.placed", "", "", map[string]string{event.HeaderEventID: "01HZX3D7E9A1", event.HeaderForce: "1"}},
			{"plain", "", `{}`, map[string]string{}},
		}
		if diff := cmp.Diff(want, have); diff != "" {
			t.Errorf("rows (-want +have):\n%s", diff)
		}
	})
}

// Messages take their place among the marks, and go the way of their savepoint
// and of their transaction.
func TestPublishedMessagesKeepTheirPlace(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.exec(t, `CREATE TABLE authors (id INTEGER PRIMARY KEY, name TEXT)`)
		m.addVersions(t, "authors")
		m.ob = m.outbox(t, outbox.Entity{ID: "account", Table: "accounts"}, outbox.Entity{ID: "author", Table: "authors"})
		publish := func(tx *outbox.Tx, topic string) error { return tx.Publish(topic, watermillMessage("", "{}")) }
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
			payload := message.NewMessage("", []byte("{}"))
			err := errors.Join(
				exec(ctx, tx, `INSERT INTO accounts (id, name) VALUES (1, 'x')`), exec(ctx, tx, `INSERT INTO authors (id, name) VALUES (1, 'x')`),
				tx.Publish("first", payload), tx.Saved("account", 1), publish(tx, "second"), publish(tx, "third"), tx.Saved("author", 1), tx.Saved("account", 1),
				publish(tx, "fourth"))
			payload.Payload[0] = '!' // whoever published may use its memory again
			undo := tx.Savepoint(ctx, func(context.Context) error { return errors.Join(publish(tx, "undone"), errAbandoned) })
			return errors.Join(err, publish(tx, "fifth"), map[bool]error{true: undo}[!errors.Is(undo, errAbandoned)])
		})
		_ = m.ob.InTx(t.Context(), m.DB, func(ctx context.Context, tx *outbox.Tx) error {
			return errors.Join(publish(tx, "rolled back"), tx.Flush(ctx), errAbandoned)
		})
		var have []string
		for _, r := range m.published(t) {
			have = append(have, r.Topic)
			if r.Payload != "{}" && !strings.HasPrefix(r.Topic, "a") {
				t.Errorf("payload on %s is %q", r.Topic, r.Payload)
			}
		}
		want := []string{"first", "account", "second", "third", "author", "fourth", "fifth"}
		if diff := cmp.Diff(want, have); diff != "" {
			t.Errorf("topics in the outbox (-want +have):\n%s", diff)
		}
	})
}

func TestPublishRefusesWhatCannotBeSent(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		good := watermillMessage("", "{}")
		m.inTx(t, func(_ context.Context, tx *outbox.Tx) error {
			for name, c := range map[string]struct {
				topic string
				msg   *message.Message
				says  string
			}{
				"no topic":         {"", good, "topic is empty"},
				"wildcard":         {"orders.*", good, "wildcards"},
				"white space":      {"a b", good, "white space"},
				"NUL in topic":     {"a\x00", good, "unprintable"},
				"topic not UTF-8":  {"a\xff", good, "not UTF-8"},
				"long topic":       {strings.Repeat("x", 256), good, "longer than 255"},
				"nil":              {"orders", nil, "message is nil"},
				"NUL in metadata":  {"orders", watermillMessage("", "", "k", "a\x00b"), "metadata k contains a NUL"},
				"metadata binary":  {"orders", watermillMessage("", "", "k", "\xff"), "metadata k is not UTF-8"},
				"name binary":      {"orders", watermillMessage("", "", "\xff", "v"), "metadata name is not UTF-8"},
				"long UUID":        {"orders", watermillMessage(strings.Repeat("x", 256), ""), "UUID is longer than 255"},
				"much in metadata": {"orders", watermillMessage("", "", "k", strings.Repeat("x", 40000)), "metadata k is longer than 32768"},
				"large payload":    {"orders", watermillMessage("", strings.Repeat("x", 16<<20+1)), "has 16777217 bytes and at most 16777216"},
				"NUL in the key":   {"orders", watermillMessage("", "", event.MetadataKey, "\x00"), "contains a NUL"},
			} {
				err := tx.Publish(c.topic, good, c.msg)
				if !errors.Is(err, outbox.ErrMessage) || !strings.Contains(err.Error(), c.says) || !strings.HasPrefix(err.Error(), "outbox: publish") {
					t.Errorf("%s: %v, want an ErrMessage that says %q", name, err, c.says)
				}
			}
			return tx.Publish(event.DirectTopic(strings.Repeat("q", 118), strings.Repeat("e", 118)), good)
		})
		if n := len(m.rows(t)); n != 1 {
			t.Errorf("%d rows: a call with a bad message must publish none of its messages", n)
		}
	})
}

type orderPlaced struct{ Account, Amount int }

// Watermill's event bus on a Tx: what its handlers get is what was published, if
// and only if the transaction committed.
func TestWatermillEventBus(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		marshaler := cqrs.JSONMarshaler{GenerateName: cqrs.StructName}
		place := func(ctx context.Context, tx *outbox.Tx, amount int) error {
			bus, err := cqrs.NewEventBusWithConfig(tx, cqrs.EventBusConfig{
				GeneratePublishTopic: func(p cqrs.GenerateEventPublishTopicParams) (string, error) { return "events." + p.EventName, nil },
				OnPublish: func(p cqrs.OnEventSendParams) error {
					p.Message.Metadata.Set(event.MetadataKey, "7")
					return nil
				},
				Marshaler: marshaler,
			})
			if err != nil {
				return err
			}
			return errors.Join(
				exec(ctx, tx, `UPDATE accounts SET balance = balance + 1 WHERE id = 7`), tx.Saved("account", 7),
				bus.Publish(ctx, orderPlaced{Account: 7, Amount: amount}))
		}
		m.exec(t, `INSERT INTO accounts (id, name) VALUES (7, 'x')`)
		err := m.ob.InTx(t.Context(), m.DB, func(ctx context.Context, tx *outbox.Tx) error {
			return errors.Join(place(ctx, tx, 1), errAbandoned)
		})
		if !errors.Is(err, errAbandoned) {
			t.Fatal(err)
		}
		for _, amount := range []int{2, 3} {
			m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error { return place(ctx, tx, amount) })
		}
		if rows := m.published(t); len(rows) != 4 || rows[1].Key != "7" || rows[1].Topic != "events.orderPlaced" {
			t.Fatalf("rows: %+v", rows)
		}

		channel := gochannel.NewGoChannel(gochannel.Config{BlockPublishUntilSubscriberAck: true}, watermill.NopLogger{})
		router, err := message.NewRouter(message.RouterConfig{CloseTimeout: time.Minute}, watermill.NopLogger{})
		if err != nil {
			t.Fatal(err)
		}
		processor, err := cqrs.NewEventProcessorWithConfig(router, cqrs.EventProcessorConfig{
			GenerateSubscribeTopic: func(p cqrs.EventProcessorGenerateSubscribeTopicParams) (string, error) {
				return "events." + p.EventName, nil
			},
			SubscriberConstructor: func(cqrs.EventProcessorSubscriberConstructorParams) (message.Subscriber, error) {
				return channel, nil
			},
			Marshaler: marshaler,
		})
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan orderPlaced, 10)
		if err := processor.AddHandlers(cqrs.NewEventHandler("orders", func(_ context.Context, e *orderPlaced) error {
			got <- *e
			return nil
		})); err != nil {
			t.Fatal(err)
		}
		m.runAll(t, router, channel)
		for _, amount := range []int{2, 3} {
			select {
			case e := <-got:
				if want := (orderPlaced{7, amount}); e != want {
					t.Errorf("the handler got %+v, want %+v", e, want)
				}
			case <-time.After(time.Minute):
				t.Fatal("the handler got nothing for 20 s")
			}
		}
	})
}

// runAll runs a Watermill router, and a relay that publishes to channel, for the
// rest of the test.
func (m master) runAll(t *testing.T, router *message.Router, channel *gochannel.GoChannel) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- router.Run(ctx) }()
	<-router.Running()
	r, err := relay.New(m.DB, channel, relay.Config{})
	if err != nil {
		t.Fatal(err)
	}
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, <-ended, channel.Close()); err != nil {
			t.Error(err)
		}
	})
}

// A function of an entity runs while the flush is under way: what it published would
// come too late for it.
func TestPublishWithinAFunction(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		publish := func(_ context.Context, tx *outbox.Tx, _ []outbox.Instance) (map[string]any, error) {
			return nil, tx.Publish("mail", message.NewMessage("", []byte("x")))
		}
		m = m.account(t, outbox.Entity{Serialize: publish, DeleteData: publish})
		m.exec(t, `INSERT INTO accounts (id, name) VALUES (1, 'x')`)
		for what, work := range map[string]func(ctx context.Context, tx *outbox.Tx) error{
			"Serialize":  func(_ context.Context, tx *outbox.Tx) error { return tx.Saved("account", 1) },
			"DeleteData": func(ctx context.Context, tx *outbox.Tx) error { return tx.Delete(ctx, "account", 1) },
		} {
			if err := m.ob.InTx(t.Context(), m.DB, work); !errors.Is(err, outbox.ErrFlushing) {
				t.Errorf("Publish in %s: %v, want ErrFlushing", what, err)
			}
		}
		m.wantSent(t)
		m.wantAccounts(t, 1)
	})
}
