package outboxtest_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/outbox"
	"github.com/lockstep-go/lockstep/outboxtest"
)

// onEach runs a test in a transaction of every database, with two accounts saved
// in it and not flushed.
func onEach(t *testing.T, test func(t *testing.T, tx *outbox.Tx)) {
	for _, d := range []struct {
		dialect outbox.Dialect
		open    func(testing.TB) (*sql.DB, string)
	}{{outbox.Postgres, testdb.Postgres}, {outbox.MySQL, testdb.MariaDB}, {outbox.SQLite, testdb.SQLite}} {
		t.Run(string(d.dialect), func(t *testing.T) {
			t.Parallel()
			db, _ := d.open(t)
			if _, err := migrations.Up(t.Context(), db, d.dialect); err != nil {
				t.Fatal(err)
			}
			versions, err := migrations.TableSQL(d.dialect, "accounts")
			if err != nil {
				t.Fatal(err)
			}
			for _, statement := range []string{`CREATE TABLE accounts (id INTEGER PRIMARY KEY, name VARCHAR(20), balance NUMERIC(10,2))`, versions} {
				if _, err := db.ExecContext(t.Context(), statement); err != nil {
					t.Fatal(err)
				}
			}
			ob, err := outbox.New(outbox.Config{Dialect: d.dialect, Entities: []outbox.Entity{{ID: "account", Table: "accounts"}}})
			if err != nil {
				t.Fatal(err)
			}
			rollback := errors.New("seen enough")
			err = ob.InTx(t.Context(), db, func(ctx context.Context, tx *outbox.Tx) error {
				if _, err := tx.ExecContext(ctx, `INSERT INTO accounts (id, name, balance) VALUES (1, 'Ada', 1.5), (2, 'Bob', 20)`); err != nil {
					return err
				}
				if err := tx.Saved("account", 1, 2); err != nil {
					return err
				}
				test(t, tx)
				return rollback
			})
			if !errors.Is(err, rollback) {
				t.Fatal(err)
			}
		})
	}
}

// recorder is a testing.TB that notes how it was failed.
type recorder struct {
	testing.TB
	said string
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.said = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// failure returns what a check says when it fails, or nothing.
func failure(t *testing.T, check func(tb testing.TB)) string {
	t.Helper()
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		check(r)
	}()
	<-done
	return strings.ReplaceAll(r.said, "\u00a0", " ") // cmp pads its diffs with either
}

func data(pairs ...any) map[string]any {
	m := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i].(string)] = pairs[i+1]
	}
	return m
}

func TestWrittenEvents(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, tx *outbox.Tx) {
		full := outboxtest.RequireEvent(t, tx, outboxtest.Event{Entity: "account", Key: "1", Data: data("name", "Ada", "balance", 1.5)})
		if full.Revision != 1 || full.Signal != event.Save || full.Topic != "account" || len(full.Data) != 3 || full.Metadata[event.HeaderEventID] == "" {
			t.Errorf("the event in full: %+v", full)
		}
		outboxtest.RequireNone(t, tx, "author", "invoice")
		if err := errors.Join(
			tx.Delete(t.Context(), "account", 2),
			tx.Publish("mail", message.NewMessage("m1", []byte("hello"))),
		); err != nil {
			t.Fatal(err)
		}
		outboxtest.RequireEvents(t, tx,
			outboxtest.Event{Key: "1"}, outboxtest.Event{Key: "2", Signal: event.Save, Data: data("balance", 20)},
			outboxtest.Event{Signal: event.Delete, Revision: 2, Data: data("id", 2)},
			outboxtest.Event{Topic: "mail", Payload: []byte("hello"), Metadata: map[string]string{event.HeaderEventID: "m1"}})
	})
}

func TestFailuresAreReadable(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, tx *outbox.Tx) {
		for name, c := range map[string]struct {
			check func(tb testing.TB)
			says  []string
		}{
			"another value": {
				func(tb testing.TB) {
					outboxtest.RequireEvent(tb, tx, outboxtest.Event{Entity: "account", Key: "1", Data: data("name", "Eve", "balance", 1.5)})
				},
				[]string{"no event is as wanted", `-`, `"Eve"`, `"Ada"`, "SAVE account/2, revision 1"},
			},
			"a field that was not sent": {
				func(tb testing.TB) {
					outboxtest.RequireEvent(tb, tx, outboxtest.Event{Key: "2", Data: data("nickname", nil)})
				},
				[]string{"no event is as wanted", `"nickname"`},
			},
			"another revision": {
				func(tb testing.TB) { outboxtest.RequireEvent(tb, tx, outboxtest.Event{Key: "2", Revision: 4}) },
				[]string{"Revision: 4", "Revision: 1"},
			},
			"a DELETE": {
				func(tb testing.TB) { outboxtest.RequireEvent(tb, tx, outboxtest.Event{Key: "2", Signal: event.Delete}) },
				[]string{`"DELETE"`, `"SAVE"`},
			},
			"too many": {
				func(tb testing.TB) { outboxtest.RequireEvent(tb, tx, outboxtest.Event{Entity: "account"}) },
				[]string{"2 events are as wanted, want one", "account/1", "account/2"},
			},
			"one too few": {
				func(tb testing.TB) { outboxtest.RequireEvents(tb, tx, outboxtest.Event{Key: "1"}) },
				[]string{"not wanted:\n  SAVE account/2, revision 1"},
			},
			"one too many, and out of order": {
				func(tb testing.TB) {
					outboxtest.RequireEvents(tb, tx, outboxtest.Event{Key: "2"}, outboxtest.Event{Key: "1"}, outboxtest.Event{Key: "3"})
				},
				[]string{"event 1 (-want +have)", "event 2 (-want +have)", "event 3 is missing:\n  (any) (any)/3"},
			},
			"none": {
				func(tb testing.TB) { outboxtest.RequireNone(tb, tx, "author", "account") },
				[]string{"want no event of author, account, have 2", `name="Ada"`},
			},
			"none at all": {
				func(tb testing.TB) { outboxtest.RequireNone(tb, tx) },
				[]string{"want no event of any entity, have 2"},
			},
			"no JSON": {
				func(tb testing.TB) {
					outboxtest.RequireEvent(tb, tx, outboxtest.Event{Data: data("name", make(chan int))})
				},
				[]string{"the wanted event: name: json"},
			},
		} {
			have := failure(t, c.check)
			for _, part := range c.says {
				if !strings.Contains(have, part) {
					t.Errorf("%s: the failure does not say %q:\n%s", name, part, have)
				}
			}
		}
	})
}

func TestEmptyOutboxAndBrokenFlush(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, tx *outbox.Tx) {
		if _, err := tx.ExecContext(t.Context(), `DELETE FROM accounts WHERE id = 2`); err != nil {
			t.Fatal(err)
		}
		have := failure(t, func(tb testing.TB) { outboxtest.RequireNone(tb, tx) })
		if want := "outboxtest: flush: outbox: account/2 does not exist"; !strings.HasPrefix(have, want) {
			t.Errorf("have %q, want it to begin with %q", have, want)
		}
	})
	db, _ := testdb.SQLite(t)
	if _, err := migrations.Up(t.Context(), db, outbox.SQLite); err != nil {
		t.Fatal(err)
	}
	outboxtest.RequireNone(t, db)
	outboxtest.RequireEvents(t, db)
	have := failure(t, func(tb testing.TB) { outboxtest.RequireEvent(tb, db, outboxtest.Event{Entity: "account"}) })
	if !strings.Contains(have, "no event was written") || !strings.Contains(have, "marked with Saved") {
		t.Errorf("an empty outbox: %q", have)
	}
}

// Values are compared as JSON, whatever Go type the test writes them in.
func TestValuesAreComparedAsJSON(t *testing.T) {
	t.Parallel()
	db, _ := testdb.SQLite(t)
	if _, err := migrations.Up(t.Context(), db, outbox.SQLite); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	e := event.Event{
		Signal: event.Sync, CQRSID: "thing", Key: []byte(`"k"`), CorrelationID: []byte(`"c-1"`), Meta: []byte(`{"tenant":7}`), Previous: []byte(`{"n":null}`),
		Data: []byte(`{"n":1.50,"big":12345678901234567890.10,"e":1e+20,"huge":1e999999999,"at":"2026-01-02 03:04:05.000000+00:00","b":"AP8=",` +
			`"list":[1,{"x":2.0}],"null":null,"cqrs_revision":3,"cqrs_updated":"2026-01-02 03:04:05.000000+00:00"}`),
	}
	if _, err := db.ExecContext(t.Context(), `INSERT INTO outbox (topic, key, payload) VALUES ('cqrs.billing.thing', 'k', ?)`, e.AppendJSON(nil)); err != nil {
		t.Fatal(err)
	}
	outboxtest.RequireEvent(t, db, outboxtest.Event{
		Entity: "thing", Key: "k", Signal: event.Sync, Revision: 3, Topic: "cqrs.billing.thing", CorrelationID: "c-1", Meta: data("tenant", int8(7)), Previous: data("n", nil),
		Data: data("n", 1.5, "e", 100000000000000000000.0, "at", at, "b", []byte{0, 255}, "list", []any{1, map[string]int{"x": 2}}, "null", nil),
	})
	for name, want := range map[string]outboxtest.Event{
		"a digit less":           {Data: data("big", 12345678901234567000.10)},
		"text for a number":      {Data: data("n", "1.5")},
		"another member of meta": {Meta: data("tenant", 8)},
		"a previous value":       {Previous: data("n", 0)},
		"a correlation id":       {CorrelationID: "c-2"},
		"a queue":                {Topic: "thing"},
		"a header":               {Metadata: map[string]string{"x": "y"}},
		"a payload":              {Payload: []byte("{}")},
	} {
		if have := failure(t, func(tb testing.TB) { outboxtest.RequireEvent(tb, db, want) }); !strings.Contains(have, "(-want +have)") {
			t.Errorf("%s: have %q, want a diff", name, have)
		}
	}
}

// What the functions of an Outbox find in the transaction's context is in the
// events that a test sees, as it is in those of a commit.
func TestFlushHasTheContextOfTheTransaction(t *testing.T) {
	t.Parallel()
	for dialect, open := range map[outbox.Dialect]func(testing.TB) (*sql.DB, string){
		outbox.Postgres: testdb.Postgres, outbox.MySQL: testdb.MariaDB, outbox.SQLite: testdb.SQLite,
	} {
		t.Run(string(dialect), func(t *testing.T) {
			t.Parallel()
			db, _ := open(t)
			if _, err := migrations.Up(t.Context(), db, dialect); err != nil {
				t.Fatal(err)
			}
			versions, err := migrations.TableSQL(dialect, "accounts")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := db.ExecContext(t.Context(), `CREATE TABLE accounts (id INTEGER PRIMARY KEY);`+versions); err != nil {
				t.Fatal(err)
			}
			type request struct{}
			ob, err := outbox.New(outbox.Config{
				Dialect: dialect, Entities: []outbox.Entity{{ID: "account", Table: "accounts"}},
				CorrelationID: func(ctx context.Context) any { return ctx.Value(request{}) },
				Meta: func(ctx context.Context, _ outbox.Instance) (map[string]any, error) {
					return data("request", ctx.Value(request{})), nil
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			err = ob.InTx(context.WithValue(t.Context(), request{}, "r-1"), db, func(ctx context.Context, tx *outbox.Tx) error {
				if _, err := tx.ExecContext(ctx, `INSERT INTO accounts (id) VALUES (1)`); err != nil {
					return err
				}
				if err := tx.Saved("account", 1); err != nil {
					return err
				}
				outboxtest.RequireEvent(t, tx, outboxtest.Event{Key: "1", CorrelationID: "r-1", Meta: data("request", "r-1")}) //nolint:contextcheck // that of the transaction is what is tested
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}
