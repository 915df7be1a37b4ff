package integration_test

import (
	"context"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/outbox"
)

// Orders have lines and belong to customers; the replica's foreign keys hold it
// to the order of the events.
func shop() []entity {
	return []entity{
		{name: "customer", table: "customers", ref: "customer_ref", columns: []column{
			{"id", "bigint PRIMARY KEY", "customer_id", ""}, {"name", "text NOT NULL", "title", ""},
		}},
		{name: "order", table: "orders", ref: "order_ref", columns: []column{
			{"id", "bigint PRIMARY KEY", "order_id", ""},
			{"customer", "bigint NOT NULL REFERENCES customers", "buyer", "bigint NOT NULL REFERENCES customer_ref"},
		}},
		{name: "line", table: "lines", ref: "line_ref", columns: []column{
			{"id", "bigint PRIMARY KEY", "line_id", ""},
			{"in_order", "bigint NOT NULL REFERENCES orders", "order_id", "bigint NOT NULL REFERENCES order_ref"},
			{"item", "text NOT NULL", "article", ""},
		}},
	}
}

func TestSeveralEntitiesInOneTransaction(t *testing.T) {
	t.Parallel()
	r := newRig(t, shop()...)
	r.startRelay(t)
	c := r.startConsumer(t)
	want := r.trade(t, 1)
	r.caughtUp(t)
	// The order between keys is not promised, but a foreign key costs no attempt.
	if s := c.Stats(); s.Dead+s.Retried > 0 {
		t.Errorf("%d dead letters and %d messages tried again, want none", s.Dead, s.Retried)
	}
	c.stop(t)

	// The same again, for a consumer that finds it all in its queue.
	want = append(want, r.trade(t, 2)...)
	until(t, "all is published", func() bool { return r.wire.count() == len(want) })
	c = r.startConsumer(t)
	r.caughtUp(t)
	if s := c.Stats(); s.Dead+s.Retried > 0 {
		t.Errorf("of a full queue: %d dead letters and %d messages tried again, want none", s.Dead, s.Retried)
	}

	var have []string
	for _, w := range r.settled(t) {
		have = append(have, w.ev.CQRSID[:len(w.ev.CQRSID)-len(r.suffix)-1]+" "+w.key+" "+string(w.ev.Signal))
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("order of the events (-want +have):\n%s", diff)
	}
}

// trade makes customers with orders and lines, changes and deletes some, a
// transaction each, and returns the events that this is to give. Keys begin with
// the digit.
func (r *rig) trade(t *testing.T, digit int) []string {
	t.Helper()
	one, two, first, second, third := 10*digit+1, 10*digit+2, 100*digit+1, 100*digit+2, 100*digit+3
	exec := func(ctx context.Context, tx *outbox.Tx, statement string, args ...any) {
		if _, err := tx.ExecContext(ctx, statement, args...); err != nil {
			t.Errorf("%s: %v", statement, err)
		}
	}
	saved := func(tx *outbox.Tx, name string, keys ...any) {
		if err := tx.Saved(r.id(name), keys...); err != nil {
			t.Error(err)
		}
	}
	deleted := func(ctx context.Context, tx *outbox.Tx, name string, keys ...any) {
		if err := tx.Delete(ctx, r.id(name), keys...); err != nil {
			t.Error(err)
		}
	}
	r.do(t, func(ctx context.Context, tx *outbox.Tx) error {
		exec(ctx, tx, `INSERT INTO customers VALUES ($1, 'Ann'), ($2, 'Bob')`, one, two)
		exec(ctx, tx, `INSERT INTO orders VALUES ($1, $2)`, one, one)
		exec(ctx, tx, `INSERT INTO lines VALUES ($1, $2, 'bread'), ($3, $2, 'butter')`, first, one, second)
		saved(tx, "customer", two, one)
		saved(tx, "order", one)
		saved(tx, "line", second, first)
		saved(tx, "customer", one) // keeps its place
		return nil
	})
	r.do(t, func(ctx context.Context, tx *outbox.Tx) error {
		exec(ctx, tx, `INSERT INTO orders VALUES ($1, $2)`, two, two)
		exec(ctx, tx, `INSERT INTO lines VALUES ($1, $2, 'milk')`, third, two)
		exec(ctx, tx, `UPDATE lines SET in_order = $1 WHERE id = $2`, two, second)
		exec(ctx, tx, `UPDATE customers SET name = 'Robert' WHERE id = $1`, two)
		saved(tx, "order", two)
		saved(tx, "line", third, second)
		saved(tx, "customer", two)
		return nil
	})
	r.do(t, func(ctx context.Context, tx *outbox.Tx) error {
		deleted(ctx, tx, "line", first)
		deleted(ctx, tx, "order", one)
		deleted(ctx, tx, "customer", one)
		return nil
	})
	name := func(entity string, key int, signal string) string {
		return entity + " " + strconv.Itoa(key) + " " + signal
	}
	return []string{
		name("customer", two, "SAVE"), name("customer", one, "SAVE"), name("order", one, "SAVE"),
		name("line", second, "SAVE"), name("line", first, "SAVE"),
		name("order", two, "SAVE"), name("line", third, "SAVE"), name("line", second, "SAVE"), name("customer", two, "SAVE"),
		name("line", first, "DELETE"), name("order", one, "DELETE"), name("customer", one, "DELETE"),
	}
}
