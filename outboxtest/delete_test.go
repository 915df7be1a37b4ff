package outboxtest_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/outboxtest"
)

// TestDeliveredDelete: a DELETE carries the key's columns under their names, as a
// master's does, so tables and handlers find it whatever the columns are called.
func TestDeliveredDelete(t *testing.T) {
	t.Parallel()
	db, _ := testdb.SQLite(t)
	if _, err := migrations.Up(t.Context(), db, consumer.SQLite); err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{
		`CREATE TABLE product_ref (code text PRIMARY KEY, cqrs_revision integer NOT NULL, cqrs_updated text NOT NULL)`,
		`CREATE TABLE shelf_ref (region text NOT NULL, number integer NOT NULL, cqrs_revision integer NOT NULL, cqrs_updated text NOT NULL, PRIMARY KEY (region, number))`,
	} {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	c, err := consumer.New(db, outboxtest.NoBroker{}, consumer.Config{Queue: "billing"})
	if err != nil {
		t.Fatal(err)
	}
	var raw string
	var keys []string
	note := func(_ context.Context, _ consumer.Tx, ev consumer.Event[map[string]any]) error {
		raw, keys = string(ev.Raw), ev.Keys()
		return nil
	}
	for _, err := range []error{
		c.Table("product", consumer.Table{Name: "product_ref", Key: "code", Columns: map[string]string{"sku": "code"}}),
		c.Table("shelf", consumer.Table{Name: "shelf_ref", Keys: []string{"region", "number"}}),
		consumer.Handle(c, "badge", note, consumer.HandlerOptions{Key: "number"}),
		consumer.Handle(c, "seat", note),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	d := outboxtest.NewDelivery(t, c)
	d.Require(consumer.Applied, outboxtest.Event{Entity: "product", Key: "A-1", Revision: 1, Data: data("sku", "A-1")})
	d.Require(consumer.Applied, outboxtest.Event{Entity: "product", Key: "A-1", Revision: 2, Signal: event.Delete})
	d.Require(consumer.Applied, outboxtest.Event{Entity: "shelf", Key: `["eu","7"]`, Revision: 1, Data: data("region", "eu", "number", 7)})
	d.Require(consumer.Applied, outboxtest.Event{Entity: "shelf", Key: `["eu","7"]`, Revision: 2, Signal: event.Delete})
	var left int
	if err := db.QueryRowContext(t.Context(), `SELECT (SELECT count(*) FROM product_ref) + (SELECT count(*) FROM shelf_ref)`).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d rows are left, error %v", left, err)
	}
	d.Require(consumer.Applied, outboxtest.Event{Entity: "badge", Key: "7", Revision: 2, Signal: event.Delete})
	if !strings.Contains(raw, `"number":7`) || !strings.Contains(raw, `"id":7`) {
		t.Errorf("a badge's DELETE has %s", raw)
	}
	d.Require(consumer.Applied, outboxtest.Event{Entity: "seat", Key: `["eu","7"]`, Revision: 2, Signal: event.Delete})
	if diff := cmp.Diff([]string{"eu", "7"}, keys); diff != "" {
		t.Errorf("Keys of %s (-want +have):\n%s", raw, diff)
	}
	said := failure(t, func(tb testing.TB) {
		outboxtest.NewDelivery(tb, c).Deliver(outboxtest.Event{Entity: "shelf", Key: "7", Revision: 2, Signal: event.Delete})
	})
	if !strings.Contains(said, "has not the 2 columns [region number]") {
		t.Errorf("a key of one column: %q", said)
	}
}
