package consumer

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
)

// seating is a replica of seats (the key has two columns) and of tickets that refer
// to them in another order of columns.
func seating(t *testing.T, d Dialect, ask time.Duration, follow ...string) (*rig, *running) {
	t.Helper()
	text := "varchar(20)"
	if d == MySQL {
		text += " COLLATE utf8mb4_bin"
	}
	db := openDB(t, d,
		`CREATE TABLE seat_ref (number bigint NOT NULL, label varchar(20) UNIQUE, "row" `+text+` NOT NULL,
			cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL, PRIMARY KEY ("row", number))`,
		`CREATE TABLE ticket_ref (id bigint PRIMARY KEY, n bigint, r `+text+`, label varchar(20), cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL,
			FOREIGN KEY (r, n) REFERENCES seat_ref ("row", number), FOREIGN KEY (label) REFERENCES seat_ref (label))`)
	all := map[string]Table{
		"seat":   {Name: "seat_ref", Keys: []string{"number", "row"}}, // not in the order of the primary key
		"ticket": {Name: "ticket_ref", RetryDelay: time.Hour},
	}
	tables := make(map[string]Table)
	for _, id := range follow {
		tables[id] = all[id]
	}
	r := rigOn(t, db, tables)
	r.cfg.Now, r.askEvery = time.Now, ask
	broker := newTestBroker()
	broker.requeue = true
	return r, r.start(t, broker, broker)
}

func seatNamed(row string, number int, label string) *message.Message {
	return lockstep(envelope("SAVE", "seat", fmt.Sprintf(`{"row":%q,"number":%d,"label":%q,%s}`, row, number, label, versionJSON(1, at(1)))))
}

func ticket(id int, row, number, label string) *message.Message {
	return lockstep(envelope("SAVE", "ticket", fmt.Sprintf(`{"id":%d,"r":%s,"n":%s,"label":%s,%s}`, id, row, number, label, versionJSON(1, at(1)))))
}

// tickets are messages that wait for the seat a/2, in any spelling, and the rows
// that they leave.
func tickets() (messages []*message.Message, rows []string) {
	return []*message.Message{
		ticket(1, `"a"`, `2`, `null`), ticket(2, `"a"`, `"2"`, `null`), ticket(3, `null`, `7`, `"a2"`), ticket(4, `"a"`, `2`, `"a2"`),
	}, []string{"id=1 r=a n=2 label=null", "id=2 r=a n=2 label=null", "id=3 r=null n=7 label=a2", "id=4 r=a n=2 label=a2"}
}

// TestParkedForSeveralColumns: rows that refer to another by several columns are
// applied right after that. By columns that are not its key they need the database's
// word, as they do for a row that somebody else applies.
func TestParkedForSeveralColumns(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		r, run := seating(t, d, time.Hour, "seat", "ticket")
		early, want := tickets()
		run.broker.deliver(early...)
		run.broker.deliver(seatNamed("a", 1, "a1"), seatNamed("b", 2, "b2"))
		eventually(t, "all are parked", func() bool { return r.Stats().Parked == 4 && r.Stats().Applied == 2 })
		run.broker.deliver(seatNamed("a", 2, "a2"))
		run.awaitAcked(t, len(early)+2)
		if s := r.Stats(); s.Parked != 1 || s.Retried+s.Dead != 0 {
			t.Errorf("have %+v, want the one parked that refers to no key", s)
		}
		want = slices.DeleteFunc(want, func(row string) bool { return strings.HasPrefix(row, "id=3 ") })
		if diff := cmp.Diff(want, dump(t, r.db, "SELECT id, r, n, label FROM ticket_ref")); diff != "" {
			t.Errorf("tickets (-want +have):\n%s", diff)
		}
	})
}

// TestParentAppliedElsewhere: a row that another process has applied frees what
// waits for it here, whether this consumer follows its table or not, and although it
// never hears of it.
func TestParentAppliedElsewhere(t *testing.T) {
	t.Parallel()
	for name, follow := range map[string][]string{"followed here": {"seat", "ticket"}, "not followed here": {"ticket"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachDialect(t, func(t *testing.T, d Dialect) {
				r, run := seating(t, d, askEvery, follow...)
				early, want := tickets()
				run.broker.deliver(early...)
				eventually(t, "all are parked", func() bool { return r.Stats().Parked == 4 })
				other := rigOn(t, r.db, map[string]Table{"seat": {Name: "seat_ref", Keys: []string{"row", "number"}}})
				other.batch(t, seatNamed("a", 1, "a1"))
				<-time.After(2 * askEvery)
				if n := r.Stats().Parked; n != 4 {
					t.Errorf("%d are parked, want 4: another seat is none", n)
				}
				other.batch(t, seatNamed("a", 2, "a2"))
				begin := time.Now()
				run.awaitAcked(t, len(early))
				if took := time.Since(begin); took > 40*askEvery {
					t.Errorf("that took %s, want about %s", took, askEvery)
				}
				r.requireUnpaid(t)
				if diff := cmp.Diff(want, dump(t, r.db, "SELECT id, r, n, label FROM ticket_ref")); diff != "" {
					t.Errorf("tickets (-want +have):\n%s", diff)
				}
			})
		})
	}
}

// requireUnpaid fails unless nothing is parked any more and no attempt was spent.
func (r *rig) requireUnpaid(t *testing.T) {
	t.Helper()
	if s := r.Stats(); s.Parked != 0 || s.Retried+s.Dead != 0 {
		t.Errorf("have %+v, want none parked and no attempt spent", s)
	}
}

// TestNothingIsMissing: where something else refuses a row in the words of a foreign
// key, the message waits for its delay; it is not tried all the time.
func TestNothingIsMissing(t *testing.T) {
	t.Parallel()
	r, run := family(t, Postgres, askEvery, nil, Table{MaxRetries: 1, RetryDelay: 5 * askEvery})
	mustExec(t, r.db, `CREATE SEQUENCE attempts;
		CREATE FUNCTION refused() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('attempts'); RAISE foreign_key_violation; END $$;
		CREATE TRIGGER refused BEFORE INSERT ON leaf_ref FOR EACH ROW EXECUTE FUNCTION refused()`)
	run.broker.deliver(node(1, 0), leaf(1, 1, 1))
	eventually(t, "the dead letter", func() bool { s := r.Stats(); return s.Dead == 1 && s.Retried > 0 })
	for _, line := range dump(t, r.db, "SELECT last_value AS n FROM attempts") {
		var n int
		if _, err := fmt.Sscanf(line, "n=%d", &n); err != nil || n > 11 { // two deliveries, each tried, asked about and tried once more
			t.Errorf("%s statements were sent, want a few (%v)", line, err)
		}
	}
	if s := r.Stats(); s.Retried != 1 || s.Parked != 0 {
		t.Errorf("have %+v, want 1 retried and none parked", s)
	}
}

// TestParkedAndPaused: what waits for a row when its entity is paused waits on,
// although the row has come and its delay is over, and is applied after the pause.
func TestParkedAndPaused(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		r, run := family(t, d, askEvery, nil, Table{RetryDelay: 6 * askEvery})
		run.broker.deliver(leaf(1, 1, 1))
		eventually(t, "it is parked", func() bool { return r.Stats().Parked == 1 })
		if err := r.Pause("leaf"); err != nil {
			t.Fatal(err)
		}
		run.broker.deliver(node(1, 0))
		run.awaitAcked(t, 1)
		<-time.After(8 * askEvery)
		if s := r.Stats(); s.Parked != 1 || s.Retried != 0 {
			t.Errorf("have %+v, want it still parked and no attempt spent", s)
		}
		if err := r.Resume("leaf"); err != nil {
			t.Fatal(err)
		}
		run.awaitAcked(t, 2)
		r.requireUnpaid(t)
	})
}
