package django

import (
	"context"
	"database/sql"
	"fmt"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/outbox"
	"github.com/lockstep-go/lockstep/outboxtest"
)

// service returns a migrated database with the tables of a Django service.
func service(t *testing.T, statements ...string) *sql.DB {
	t.Helper()
	db, _ := testdb.Postgres(t)
	if _, err := migrations.Up(t.Context(), db, migrations.Postgres); err != nil {
		t.Fatal(err)
	}
	for _, s := range statements {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	return db
}

// The columns are as Django's migrations make them: without defaults.
const masterTable = `CREATE TABLE shop_account (id serial PRIMARY KEY, name varchar(100) NOT NULL, balance integer NOT NULL, category_id integer,
	cqrs_revision integer NOT NULL, cqrs_updated timestamp with time zone NOT NULL)`

// Revisions go on where Django's ended: a row that it created and never changed
// has 0, and its next event 1, like the first event of a row created here.
func TestMasterTakesOver(t *testing.T) {
	t.Parallel()
	db := service(t, masterTable,
		`INSERT INTO shop_account VALUES (1, 'new', 100, 7, 0, now()), (2, 'old', 100, NULL, 4, now())`,
		`SELECT setval('shop_account_id_seq', 2)`,
		`ALTER TABLE shop_account ALTER cqrs_revision SET DEFAULT 0, ALTER cqrs_updated SET DEFAULT now()`)
	ob, err := NewMaster()
	if err != nil {
		t.Fatal(err)
	}
	if err := ob.Check(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	for id := range int64(2) {
		if err := Spend(t.Context(), ob, db, id+1, 10); err != nil {
			t.Fatal(err)
		}
	}
	err = ob.InTx(t.Context(), db, func(ctx context.Context, tx *outbox.Tx) error {
		var id int64
		if err := tx.QueryRowContext(ctx, `INSERT INTO shop_account (name, balance) VALUES ('ours', 5) RETURNING id`).Scan(&id); err != nil {
			return err
		}
		return tx.Saved("account", id)
	})
	if err != nil {
		t.Fatal(err)
	}
	outboxtest.RequireEvents(t, db,
		outboxtest.Event{
			Entity: "account", Key: "1", Revision: 1, Data: map[string]any{"balance": 90, "category": 7},
			Previous: map[string]any{"balance": 100}, Meta: map[string]any{"source": "shop"},
		},
		outboxtest.Event{Entity: "account", Key: "2", Revision: 5, Data: map[string]any{"balance": 90, "category": nil}, Previous: map[string]any{"balance": 100}},
		outboxtest.Event{Entity: "account", Key: "3", Revision: 1, Data: map[string]any{"name": "ours"}, Previous: map[string]any{"balance": nil}},
	)
}

// django is a message as django-cqrs sends it: without headers.
func django(signal, entity string, id, revision int, more, at string) *message.Message {
	return message.NewMessage("", fmt.Appendf(nil, `{"signal_type":%q,"cqrs_id":%q,"instance_data":{"cqrs_revision":%d,"cqrs_updated":"2026-01-02 03:04:%s+00:00","id":%d%s},
		"previous_data":null,"instance_pk":%d,"correlation_id":null,"retries":0,"expires":null,"meta":{}}`, signal, entity, revision, at, id, more, id))
}

// The replica goes on with Django's rows, whoever the master is.
func TestReplicaTakesOver(t *testing.T) {
	t.Parallel()
	db := service(t, `CREATE TABLE billing_accountref (id integer PRIMARY KEY, title varchar(100) NOT NULL, category_id integer,
			cqrs_revision integer NOT NULL, cqrs_updated timestamp with time zone NOT NULL)`,
		`INSERT INTO billing_accountref VALUES (1, 'new', 7, 0, '2026-01-02 03:04:00+00'), (2, 'old', NULL, 4, '2026-01-02 03:04:00+00')`)
	var kept []Rate
	c, err := NewReplica(db, outboxtest.NoBroker{}, func(r Rate) { kept = append(kept, r) })
	if err != nil {
		t.Fatal(err)
	}
	d := outboxtest.NewDelivery(t, c)
	require := func(want consumer.Result, msg *message.Message) {
		t.Helper()
		if have := d.DeliverMessage(msg); have.Result != want {
			t.Fatalf("have %+v, want %s", have, want)
		}
	}
	account := `,"name":"x","category":null`
	require(consumer.Duplicate, django("SAVE", "account", 2, 4, account, "00"))
	require(consumer.Applied, django("SAVE", "account", 2, 5, account, "01"))
	require(consumer.Applied, django("DELETE", "account", 2, 6, "", "02"))
	require(consumer.Stale, django("SAVE", "account", 2, 5, account, "01"))   // no row comes back
	require(consumer.Applied, django("SAVE", "account", 2, 0, account, "03")) // made anew by Django
	require(consumer.Ignored, django("SYNC", "rate", 1, 0, `,"currency":"EUR","value":1.5`, "00"))
	require(consumer.Applied, django("SAVE", "rate", 1, 0, `,"currency":"EUR","value":1.5`, "00"))
	if diff := cmp.Diff([]Rate{{"EUR", 1.5}}, kept); diff != "" {
		t.Errorf("rates (-want +have):\n%s", diff)
	}

	// Then the master is Lockstep's.
	save := outboxtest.Event{Entity: "account", Key: "1", Revision: 1, Data: map[string]any{"id": 1, "name": "x", "category": 7}}
	d.Require(consumer.Applied, save)

	// A key that Django's last DELETE has left here, and that a new row takes.
	require(consumer.Applied, django("DELETE", "account", 1, 2, "", "09"))
	d.Require(consumer.Stale, save)
	if _, err := db.ExecContext(t.Context(), `DELETE FROM replica_tombstones WHERE replica = 'billing_accountref'`); err != nil {
		t.Fatal(err)
	}
	d.Require(consumer.Applied, save)
}
