package shelves

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/outbox"
	"github.com/lockstep-go/lockstep/outboxtest"
)

// What the master writes is what the replica is called with.
func TestShelves(t *testing.T) {
	t.Parallel()
	db, _ := testdb.SQLite(t)
	if _, err := migrations.Up(t.Context(), db, outbox.SQLite); err != nil {
		t.Fatal(err)
	}
	versions, err := migrations.TableSQL(outbox.SQLite, "shelves")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), `CREATE TABLE shelves (region text, number integer, stock integer, PRIMARY KEY (region, number));`+versions); err != nil {
		t.Fatal(err)
	}
	ob, err := New(outbox.SQLite)
	if err != nil {
		t.Fatal(err)
	}
	for _, stock := range []int{5, 3} {
		if err := Restock(t.Context(), ob, db, "eu", 7, stock); err != nil {
			t.Fatal(err)
		}
	}
	c, err := consumer.New(db, outboxtest.NoBroker{}, consumer.Config{Queue: "billing"})
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	err = Follow(c, func(region, number string, from *int, to int) error {
		before := "new"
		if from != nil {
			before = fmt.Sprint(*from)
		}
		have = append(have, fmt.Sprintf("%s/%s: %s to %d", region, number, before, to))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	d := outboxtest.NewDelivery(t, c)
	for _, ev := range outboxtest.Events(t, db) {
		d.Require(consumer.Applied, ev)
	}
	if diff := cmp.Diff([]string{"eu/7: new to 5", "eu/7: 5 to 3"}, have); diff != "" {
		t.Errorf("-want +have:\n%s", diff)
	}
}
