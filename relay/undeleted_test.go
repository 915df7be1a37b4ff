package relay_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/relay"
)

// A row that could not be deleted goes again, and what was published behind it
// goes again behind it, confirmed or not.
func TestLastWordAfterAFailedDeletion(t *testing.T) {
	t.Parallel()
	db, _ := testdb.Postgres(t)
	m := migrated(t, db, relay.Postgres)
	_, err := db.ExecContext(t.Context(), `CREATE SEQUENCE deletions;
CREATE FUNCTION fail_once() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	IF nextval('deletions') = 1 THEN RAISE 'the disk is full' USING ERRCODE = '53100'; END IF;
	RETURN old;
END $$;
CREATE TRIGGER fail_once BEFORE DELETE ON outbox FOR EACH ROW EXECUTE FUNCTION fail_once()`)
	if err != nil {
		t.Fatal(err)
	}
	m.put(t, "a1", "a2", "b1")
	confirm := make(chan struct{})
	pub := &recorder{delay: confirm}
	m.start(t, pub, relay.Config{BatchSize: 1})
	eventually(t, "all are under way", func() bool { return len(pub.all()) == 3 })
	close(confirm)
	m.drained(t)
	want := []string{"account/a1", "account/a2", "account/b1", "account/a1", "account/a2", "account/b1"}
	if diff := cmp.Diff(want, pub.all()); diff != "" {
		t.Errorf("published (-want +have):\n%s", diff)
	}
}
