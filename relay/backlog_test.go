package relay_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/relay"
)

// putEvents inserts events of keys in turns, as package outbox writes them, with
// revisions from first on and n counting with them.
func (m master) putEvents(t *testing.T, keys string, first, revisions int) {
	t.Helper()
	const together = 500
	var values []string
	flush := func() {
		insert := columns(`INSERT INTO outbox (topic, key, payload, metadata) VALUES `, m.dialect) + strings.Join(values, ", ")
		if _, err := m.ExecContext(t.Context(), insert); err != nil {
			t.Error(err)
		}
		values = values[:0]
	}
	for r := first; r < first+revisions; r++ {
		for _, key := range keys {
			e := event.Event{
				Signal: event.Save, CQRSID: "account",
				Data: fmt.Appendf(nil, `{"id":"%c","n":%d,"cqrs_revision":%d,"cqrs_updated":"2026-01-02 03:04:05+00:00"}`, key, r, r),
			}
			if e.Previous = fmt.Appendf(nil, `{"n":%d}`, r-1); r == 1 {
				e.Previous = []byte(`{"n":null}`)
			}
			e.Key = fmt.Appendf(nil, `"%c"`, key)
			if values = append(values, fmt.Sprintf(`('account', '%c', '%s', '{"lockstep-event-id": "%c-%d"}')`, key, e.AppendJSON(nil), key, r)); len(values) == together {
				flush()
			}
		}
	}
	if len(values) > 0 {
		flush()
	}
}

// sent is what a recorder saw of the keys: "previous → n" in order.
func sent(t *testing.T, r *recorder) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for _, s := range r.all() {
		_, payload, _ := strings.Cut(s, "/")
		e, err := event.Decode([]byte(payload))
		if err != nil {
			t.Fatal(err)
		}
		key, _ := event.Text(e.Key)
		member := func(data []byte) string {
			for name, value := range event.Members(data) {
				if string(name) == "n" {
					return string(value)
				}
			}
			return "none"
		}
		all[key] = append(all[key], member(e.Previous)+" → "+member(e.Data))
	}
	return all
}

const tenKeys = "abcdefghij"

func each(keys, want string) map[string][]string {
	all := map[string][]string{}
	for _, key := range keys {
		all[string(key)] = []string{want}
	}
	return all
}

func TestBacklogCollapses(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.putEvents(t, tenKeys, 1, 1000)
		pub := &recorder{}
		r, stop := m.start(t, pub, relay.Config{Collapse: true})
		m.drained(t)
		stop()
		if diff := cmp.Diff(each(tenKeys, "null → 1000"), sent(t, pub)); diff != "" {
			t.Errorf("sent of 10,000 events of 10 keys (-want +have):\n%s", diff)
		}
		if s := r.Stats(); s.Published != 10 || s.Collapsed != 9990 {
			t.Errorf("%d published and %d collapsed, want 10 and 9990", s.Published, s.Collapsed)
		}
	})
}

func TestBacklogIsSentWholeByDefault(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.putEvents(t, tenKeys, 1, 3)
		pub := &recorder{}
		m.start(t, pub, relay.Config{})
		m.drained(t)
		want := map[string][]string{}
		for _, key := range tenKeys {
			want[string(key)] = []string{"null → 1", "1 → 2", "2 → 3"}
		}
		if diff := cmp.Diff(want, sent(t, pub)); diff != "" {
			t.Errorf("sent (-want +have):\n%s", diff)
		}
	})
}

// While the table is written to, on two shards: each key's messages join up, one's
// previous value being the last one's, and the last word is the newest.
func TestCollapseUnderLoad(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		const times, revisions = 40, 20
		pub := &recorder{}
		r, stop := m.start(t, pub, relay.Config{Collapse: true, Shards: 2, BatchSize: 50})
		for i := range times {
			m.putEvents(t, tenKeys, 1+i*revisions, revisions)
		}
		m.drained(t)
		stop()
		for key, all := range sent(t, pub) {
			last := "null"
			for _, one := range all {
				previous, now, _ := strings.Cut(one, " → ")
				if previous != last {
					t.Fatalf("key %s: previous value %s behind %s", key, previous, last)
				}
				last = now
			}
			if last != fmt.Sprint(times*revisions) {
				t.Errorf("key %s ends with %s, want %d", key, last, times*revisions)
			}
		}
		if s := r.Stats(); s.Published+s.Collapsed != times*revisions*int64(len(tenKeys)) || s.Collapsed == 0 {
			t.Errorf("%d published and %d collapsed, want %d together", s.Published, s.Collapsed, times*revisions*len(tenKeys))
		}
	})
}

// A relay that dies with messages unconfirmed leaves every row, those too that a
// newer one was sent for.
func TestNothingIsLostWhenACollapsingRelayDies(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.putEvents(t, tenKeys, 1, 100)
		never := &recorder{delay: make(chan struct{})}
		dying, err := relay.New(m.DB, never, relay.Config{Collapse: true, DrainTimeout: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		ctx, kill := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- dying.Run(ctx) }()
		eventually(t, "all keys are under way", func() bool { return len(never.all()) == 10 })
		kill()
		var cut *relay.DrainError
		if err := <-ended; !errors.As(err, &cut) {
			t.Errorf("Run: %v, want a DrainError", err)
		}
		if n := m.count(t, "outbox"); n != 1000 {
			t.Errorf("%d rows are left of 1000 of which none was confirmed", n)
		}
		pub := &recorder{}
		m.start(t, pub, relay.Config{Collapse: true})
		m.drained(t)
		if diff := cmp.Diff(each(tenKeys, "null → 100"), sent(t, pub)); diff != "" {
			t.Errorf("sent by the next (-want +have):\n%s", diff)
		}
	})
}

// A deletion that fails leaves the older rows with the newest, and all are sent again.
func TestCollapsedRowsAreDeletedWithTheNewest(t *testing.T) {
	t.Parallel()
	db, _ := testdb.Postgres(t)
	m := migrated(t, db, relay.Postgres)
	if _, err := db.ExecContext(t.Context(), `CREATE SEQUENCE deletions;
CREATE FUNCTION fail_once() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	IF nextval('deletions') = 7 THEN RAISE 'the disk is full' USING ERRCODE = '53100'; END IF;
	RETURN old;
END $$;
CREATE TRIGGER fail_once BEFORE DELETE ON outbox FOR EACH ROW EXECUTE FUNCTION fail_once()`); err != nil {
		t.Fatal(err)
	}
	m.putEvents(t, "ab", 1, 10)
	pub := &recorder{}
	m.start(t, pub, relay.Config{Collapse: true})
	m.drained(t)
	want := map[string][]string{"a": {"null → 10", "null → 10"}, "b": {"null → 10", "null → 10"}}
	if diff := cmp.Diff(want, sent(t, pub)); diff != "" {
		t.Errorf("sent, the second time after the failure (-want +have):\n%s", diff)
	}
}

// One message that the broker refuses for good dies alone: the others it was sent
// for go out by themselves.
func TestRefusedEventOfACollapsedBacklogDiesAlone(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.putEvents(t, "ab", 1, 20)
		pub := &recorder{fate: func(payload string) error {
			if strings.Contains(payload, `"id":"a","n":20,`) {
				return refusal{permanent: true}
			}
			return nil
		}}
		r, stop := m.start(t, pub, relay.Config{Collapse: true})
		m.drained(t)
		stop()
		all := sent(t, pub)
		want := []string{"null → 20", "null → 1"}
		for n := 2; n <= 20; n++ {
			want = append(want, fmt.Sprintf("%d → %d", n-1, n))
		}
		if diff := cmp.Diff(want, all["a"]); diff != "" {
			t.Errorf("tries of the refused key (-want +have):\n%s", diff)
		}
		if !slices.Equal(all["b"], []string{"null → 20"}) {
			t.Errorf("tries of the other key: %v", all["b"])
		}
		if s := r.Stats(); s.Dead != 1 || m.count(t, "outbox_dead") != 1 || s.Published != 20 {
			t.Errorf("%d dead and %d published, want 1 and 20", s.Dead, s.Published)
		}
	})
}
