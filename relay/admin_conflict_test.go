package relay_test

import (
	"context"
	"database/sql"
	"testing"
	"time"

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
	if _, err := m.ExecContext(t.Context(), `INSERT INTO outbox_failures SELECT id, 1, 'refused', now() FROM outbox`); err != nil {
		t.Fatal(err)
	}
	m.deadlockTwice(t, "BEFORE DELETE ON outbox_failures")
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

// A relay whose settlement the database undoes because of a deadlock settles it again,
// and sends nothing twice.
func TestSettlesAgainAfterADeadlock(t *testing.T) {
	t.Parallel()
	for what, event := range map[string]string{
		"confirmed":            "BEFORE DELETE ON outbox",
		"one of them has died": "BEFORE INSERT ON outbox_dead",
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			db, _ := testdb.Postgres(t)
			m := migrated(t, db, relay.Postgres)
			m.deadlockTwice(t, event)
			pub := &recorder{fate: func(payload string) error {
				if payload == "b1" && what != "confirmed" {
					return refusal{permanent: true}
				}
				return nil
			}}
			m.put(t, "a1", "b1", "c1")
			r, stop := m.start(t, pub, relay.Config{})
			m.drained(t)
			stop()
			if s := r.Stats(); s.Pauses != 0 {
				t.Errorf("the relay paused %d times", s.Pauses)
			}
			wantSeen(t, pub, "a1", "b1", "c1")
			var tries int
			if err := m.QueryRowContext(t.Context(), `SELECT last_value FROM tries`).Scan(&tries); err != nil || tries < 3 {
				t.Errorf("%d tries, %v: the test shows nothing", tries, err)
			}
		})
	}
}

// deadlockTwice has the database end what sets a trigger off the first two times.
func (m master) deadlockTwice(t *testing.T, event string) {
	t.Helper()
	for _, statement := range []string{
		`CREATE SEQUENCE tries`, // which no rollback sets back
		`CREATE FUNCTION deadlocks() RETURNS trigger LANGUAGE plpgsql AS $$
		 BEGIN
		     IF nextval('tries') < 3 THEN RAISE 'deadlock detected' USING ERRCODE = 'deadlock_detected'; END IF;
		     RETURN COALESCE(NEW, OLD);
		 END $$`,
		`CREATE TRIGGER deadlocks ` + event + ` FOR EACH ROW EXECUTE FUNCTION deadlocks()`,
	} {
		if _, err := m.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
}

// A message that is refused for the first time while others are given up stays in the
// outbox: MariaDB takes several statements for it, which could see different failures.
func TestGiveUpLeavesWhatFailsMeanwhile(t *testing.T) {
	t.Parallel()
	_, dsn := testdb.MariaDB(t)
	db, err := sql.Open("mysql", dsn+"&tx_isolation=%27READ-COMMITTED%27")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	m := migrated(t, db, relay.MySQL)
	m.put(t, "a1", "b1")
	var fresh, failing int64
	if err := m.QueryRowContext(t.Context(), `SELECT MIN(id), MAX(id) FROM outbox`).Scan(&fresh, &failing); err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{
		`INSERT INTO outbox_failures SELECT id, 1, 'refused', UTC_TIMESTAMP(6) FROM outbox ORDER BY id DESC LIMIT 1`,
		`CREATE TRIGGER linger BEFORE INSERT ON outbox_dead FOR EACH ROW SET NEW.attempts = NEW.attempts + SLEEP(4)`,
	} {
		if _, err := m.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	refused, given := make(chan error, 1), make(chan struct{})
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		done := false
		for lingering := 0; lingering == 0 && !done && ctx.Err() == nil; {
			select {
			case <-given: // a machine that halted has missed the moment
				done = true
			default:
			}
			_ = m.QueryRowContext(ctx, `SELECT COUNT(*) FROM information_schema.processlist
				WHERE db = DATABASE() AND state = 'User sleep'`).Scan(&lingering)
		}
		_, err := m.dialect.Over(m.DB).ExecContext(ctx, m.dialect.Relay().Fail, fresh, 1, "refused", 1000)
		refused <- err
	}()
	if n, err := m.admin(t).GiveUpFailures(t.Context(), fresh, failing); err != nil || n != 1 {
		t.Errorf("gave %d up, %v; want the one that was failing", n, err)
	}
	close(given)
	if err := <-refused; err != nil {
		t.Fatal(err)
	}
	for table, want := range map[string]int{"outbox": 1, "outbox_failures": 1, "outbox_dead": 1} {
		if n := m.count(t, table); n != want {
			t.Errorf("%d rows are in %s, want %d", n, table, want)
		}
	}
}
