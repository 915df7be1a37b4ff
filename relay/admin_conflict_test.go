package relay_test

import (
	"testing"

	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/relay"
)

// What the database ends because of a deadlock, as with a relay that settles the same
// messages, is done all the same, and in whole.
func TestAdminTriesAgainAfterADeadlock(t *testing.T) {
	t.Parallel()
	db, _ := testdb.Postgres(t)
	m := migrated(t, db, relay.Postgres)
	m.put(t, "a1", "b1")
	for _, statement := range []string{
		`INSERT INTO outbox_failures SELECT id, 1, 'refused', now() FROM outbox`,
		`CREATE SEQUENCE tries`, // which no rollback sets back
		`CREATE FUNCTION deadlocks() RETURNS trigger LANGUAGE plpgsql AS $$
		 BEGIN
		     IF nextval('tries') < 3 THEN RAISE 'deadlock detected' USING ERRCODE = 'deadlock_detected'; END IF;
		     RETURN OLD;
		 END $$`,
		`CREATE TRIGGER deadlocks BEFORE DELETE ON outbox_failures FOR EACH ROW EXECUTE FUNCTION deadlocks()`,
	} {
		if _, err := m.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	failing, err := m.admin(t).Failures(t.Context(), 0, 10)
	if err != nil || len(failing) != 2 {
		t.Fatalf("%d failing, %v; want 2", len(failing), err)
	}
	if n, err := m.admin(t).GiveUpFailures(t.Context(), failing[0].ID, failing[1].ID); err != nil || n != 2 {
		t.Errorf("gave %d up, %v; want 2", n, err)
	}
	for table, want := range map[string]int{"outbox": 0, "outbox_failures": 0, "outbox_dead": 2} {
		if n := m.count(t, table); n != want {
			t.Errorf("%d rows are in %s, want %d", n, table, want)
		}
	}
}
