package outbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
	"github.com/lockstep-go/lockstep/outbox"
)

// fill makes accounts 1 to n, each with revision 1, and empties the outbox.
func (m master) fill(t *testing.T, n int) {
	t.Helper()
	m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
		for i := 1; i <= n; i++ {
			if err := exec(ctx, tx, fmt.Sprintf(`INSERT INTO accounts (id, name) VALUES (%d, 'n%d')`, i, i)); err != nil {
				return err
			}
			if err := tx.Saved("account", i); err != nil {
				return err
			}
		}
		return nil
	})
	m.exec(t, `DELETE FROM outbox`)
}

func TestSync(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.fill(t, 12)
		var reports []outbox.SyncProgress
		have, err := m.ob.Sync(t.Context(), m.DB, "account", `{"id__range": [2, 10]}`, "", outbox.SyncChunk(4),
			outbox.SyncReport(func(p outbox.SyncProgress) { reports = append(reports, p) }))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(outbox.SyncProgress{Rows: 9, Position: "10"}, have); diff != "" {
			t.Errorf("result (-want +have):\n%s", diff)
		}
		if diff := cmp.Diff([]outbox.SyncProgress{{Rows: 4, Position: "5"}, {Rows: 8, Position: "9"}, {Rows: 9, Position: "10"}}, reports); diff != "" {
			t.Errorf("reports (-want +have):\n%s", diff)
		}
		var want []sent
		for i := 2; i <= 10; i++ {
			want = append(want, sent{"account", fmt.Sprint(i), event.Sync, 1, fmt.Sprintf("n%d", i)})
		}
		m.wantSent(t, want...)
		for _, row := range m.rows(t) {
			if !strings.Contains(row.metadata, event.HeaderEventID) || strings.Contains(row.metadata, event.HeaderForce) {
				t.Errorf("metadata %s", row.metadata)
			}
		}
	})
}

// Nothing is asked for, nothing is sent; all is asked for by name.
func TestSyncSelection(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.fill(t, 3)
		for filter, want := range map[outbox.Filter]int64{"": 0, outbox.All: 3, `{"id": 99}`: 0, `{"id__in": []}`: 0, `{"name": "n2"}`: 1} {
			have, err := m.ob.Sync(t.Context(), m.DB, "account", filter, "")
			if err != nil || have.Rows != want {
				t.Errorf("filter %q sends %d rows (%v), want %d", filter, have.Rows, err, want)
			}
		}
		for _, filter := range []outbox.Filter{`{"nome": 1}`, `{"id__regex": 1}`, `[]`, `x`} {
			if _, err := m.ob.Sync(t.Context(), m.DB, "account", filter, ""); !errors.Is(err, outbox.ErrFilter) {
				t.Errorf("filter %s gives %v, want ErrFilter", filter, err)
			}
		}
		if _, err := m.ob.Sync(t.Context(), m.DB, "nobody", outbox.All, ""); !errors.Is(err, outbox.ErrUnknownEntity) {
			t.Errorf("an unknown entity gives %v, want ErrUnknownEntity", err)
		}
		for what, option := range map[string]outbox.SyncOption{"rate": outbox.SyncRate(-1), "chunk": outbox.SyncChunk(0)} {
			if _, err := m.ob.Sync(t.Context(), m.DB, "account", outbox.All, "", option); err == nil || !strings.Contains(err.Error(), what) {
				t.Errorf("a bad %s gives %v", what, err)
			}
		}
		if _, err := m.ob.Sync(t.Context(), m.DB, "account", outbox.All, "a b"); err == nil {
			t.Error("a queue with a space is taken")
		}
	})
}

func TestSyncToOneQueue(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.fill(t, 1)
		if _, err := m.ob.Sync(t.Context(), m.DB, "account", outbox.All, "billing", outbox.SyncForce()); err != nil {
			t.Fatal(err)
		}
		m.wantSent(t, sent{"cqrs.billing.account", "1", event.Sync, 1, "n1"})
		var headers map[string]string
		if err := json.Unmarshal([]byte(m.rows(t)[0].metadata), &headers); err != nil {
			t.Fatal(err)
		}
		if len(headers[event.HeaderEventID]) != 36 {
			t.Errorf("event id %q", headers[event.HeaderEventID])
		}
		delete(headers, event.HeaderEventID)
		if diff := cmp.Diff(map[string]string{event.HeaderQueue: "billing", event.HeaderForce: "1"}, headers); diff != "" {
			t.Errorf("headers (-want +have):\n%s", diff)
		}
		var revision int
		if err := m.QueryRowContext(t.Context(), `SELECT cqrs_revision FROM accounts`).Scan(&revision); err != nil || revision != 1 {
			t.Errorf("the row's revision is %d (%v), want 1 as before", revision, err)
		}
	})
}

// A Sync that was stopped goes on from the position it has reported, and sends
// each row once.
func TestSyncResumes(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.fill(t, 10)
		ctx, stop := context.WithCancel(t.Context())
		first, err := m.ob.Sync(ctx, m.DB, "account", outbox.All, "", outbox.SyncChunk(3), outbox.SyncReport(func(p outbox.SyncProgress) {
			if p.Rows == 6 {
				stop()
			}
		}))
		if !errors.Is(err, context.Canceled) || first != (outbox.SyncProgress{Rows: 6, Position: "6"}) {
			t.Fatalf("the stopped Sync returned %+v, %v", first, err)
		}
		rest, err := m.ob.Sync(t.Context(), m.DB, "account", outbox.All, "", outbox.SyncFrom(first.Position))
		if err != nil || rest != (outbox.SyncProgress{Rows: 4, Position: "10"}) {
			t.Fatalf("the rest returned %+v, %v", rest, err)
		}
		for i, row := range m.rows(t) {
			if row.key != fmt.Sprint(i+1) {
				t.Errorf("event %d is of key %s", i+1, row.key)
			}
		}
	})
}

func TestSyncIsThrottled(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.fill(t, 20)
		started := time.Now()
		if _, err := m.ob.Sync(t.Context(), m.DB, "account", outbox.All, "", outbox.SyncRate(40)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(started); took < 490*time.Millisecond {
			t.Errorf("20 rows at 40 a second took %v, want 500ms", took)
		}
	})
}

// However a Sync falls together with live writes, its events stand among theirs
// where they belong: a SYNC comes after the event whose revision it carries and
// before the next, and says the same. So a replica that takes the events in order
// ends as the master.
func TestSyncBesideWriters(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		var writers, syncs sync.WaitGroup
		var synced atomic.Int64
		ctx, stop := context.WithCancel(t.Context())
		for i := range 4 {
			w := &writer{Rand: rand.New(rand.NewPCG(rand.Uint64(), uint64(i))), master: m}
			writers.Go(func() {
				for w.run(t, 60); synced.Load() < 50 && !t.Failed(); w.run(t, 20) {
				}
			})
		}
		syncs.Go(func() {
			for ctx.Err() == nil {
				p, err := m.ob.Sync(ctx, m.DB, "account", outbox.All, "", outbox.SyncChunk(2))
				if err != nil && ctx.Err() == nil && dialect.Classify(err) != dialect.Conflict { // with the writers, too often
					t.Errorf("sync: %v", err)
					return
				}
				synced.Add(p.Rows)
			}
		})
		writers.Wait()
		stop()
		syncs.Wait()
		m.checkSynced(t)
	})
}

func (m master) checkSynced(t *testing.T) {
	t.Helper()
	last := map[string]sent{}
	for _, s := range m.sent(t) {
		before, seen := last[s.Key]
		switch {
		case s.Signal != event.Sync && s.Revision != before.Revision+1:
			t.Errorf("%s of revision %d of key %s comes after revision %d", s.Signal, s.Revision, s.Key, before.Revision)
		case s.Signal == event.Sync && (!seen || before.Signal == event.Delete || s.Revision != before.Revision || s.Name != before.Name):
			t.Errorf("%+v comes after %+v, which it does not repeat", s, before)
		}
		last[s.Key] = s
	}
	rows, err := m.QueryContext(t.Context(), `SELECT CONCAT(id), name FROM accounts`)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	stored := map[string]any{}
	for rows.Next() {
		var id, name string
		if err := rows.Scan(&id, &name); err != nil {
			t.Fatal(err)
		}
		stored[id] = name
	}
	replica := map[string]any{}
	for key, s := range last {
		if s.Signal != event.Delete {
			replica[key] = s.Name
		}
	}
	if diff := cmp.Diff(stored, replica); diff != "" || rows.Err() != nil {
		t.Errorf("a replica that took all events (%v, -master +replica):\n%s", rows.Err(), diff)
	}
}

// What a function makes of a row is what a dump has and what a SYNC says.
func TestRowsAndSyncSerialize(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.fill(t, 3)
		calls := 0
		ob := m.outbox(t, outbox.Entity{ID: "account", Table: "accounts", Serialize: func(ctx context.Context, tx *outbox.Tx, rows []outbox.Instance) (map[string]any, error) {
			calls++
			var all int
			if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM accounts`).Scan(&all); err != nil {
				return nil, err
			}
			made := map[string]any{}
			for _, row := range rows {
				made[row.Key] = map[string]any{"id": row.Key, "name": fmt.Sprintf("%s of %d", row.Key, all)}
			}
			return made, nil
		}})
		n := 0
		for row, err := range ob.Rows(t.Context(), m.DB, "account", outbox.All, "") {
			if n++; err != nil || !strings.HasPrefix(string(row.Data), fmt.Sprintf(`{"id":"%d","name":"%d of 3","cqrs_revision":1,"cqrs_updated":"`, n, n)) {
				t.Fatalf("row %d is %s (%v)", n, row.Data, err)
			}
		}
		if _, err := ob.Sync(t.Context(), m.DB, "account", `{"id": 2}`, ""); err != nil {
			t.Fatal(err)
		}
		m.wantSent(t, sent{"account", "2", event.Sync, 1, "2 of 3"})
		if n != 3 || calls != 2 {
			t.Errorf("%d rows and %d calls of Serialize, want 3 and 2", n, calls)
		}
	})
}

// Rows and Versions page through more rows than fit a page, in key order.
func TestRows(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		const n = 4100
		m.exec(t, `INSERT INTO accounts (id, name, cqrs_revision) SELECT i, CONCAT('n', i), i % 7 FROM `+m.numbers(n))
		next := 2
		for row, err := range m.ob.Rows(t.Context(), m.DB, "account", outbox.All, "1") {
			if err != nil {
				t.Fatal(err)
			}
			var data struct {
				ID       int
				Name     string
				Revision int    `json:"cqrs_revision"`
				Updated  string `json:"cqrs_updated"`
			}
			if err := json.Unmarshal(row.Data, &data); err != nil {
				t.Fatal(err)
			}
			if row.Key != fmt.Sprint(next) || data.ID != next || data.Name != "n"+row.Key || data.Revision != next%7 || data.Updated == "" {
				t.Fatalf("row %d is %s %s", next, row.Key, row.Data)
			}
			next++
		}
		if next != n+1 {
			t.Errorf("rows end at %d, want %d", next-1, n)
		}
		seen := 0
		for v, err := range m.ob.Versions(t.Context(), m.DB, "account", `{"id__gt": 100}`, "") {
			if err != nil {
				t.Fatal(err)
			}
			seen++
			if id := fmt.Sprint(100 + seen); v.Key != id || string(v.PK) != id || v.Revision != int64(100+seen)%7 {
				t.Fatalf("version %d is %+v", seen, v)
			}
			if seen == 3000 {
				break // stopping within a page leaves nothing behind
			}
		}
		if count, err := m.ob.Count(t.Context(), m.DB, "account", `{"id__gt": 100}`); err != nil || count != n-100 {
			t.Errorf("count is %d (%v), want %d", count, err, n-100)
		}
		for _, err := range m.ob.Rows(t.Context(), m.DB, "account", "", "") {
			t.Errorf("an empty filter yields a row (%v)", err)
		}
	})
}

// Rows whose key is null cannot be sent and hold up nothing.
func TestRowsWithoutAKey(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.exec(t, `CREATE TABLE things (region TEXT, number TEXT UNIQUE, UNIQUE (region, number))`)
		m.addVersions(t, "things")
		m.exec(t, `INSERT INTO things (region, number) VALUES ('a', NULL), (NULL, NULL), (NULL, 'b'), ('c', 'd')`)
		for _, e := range []outbox.Entity{{Key: "number"}, {Keys: []string{"region", "number"}}} {
			e.ID, e.Table = "thing", "things"
			ob := m.outbox(t, e)
			want := int64(2)
			if e.Key == "" {
				want = 1
			}
			done, err := ob.Sync(t.Context(), m.DB, "thing", outbox.All, "", outbox.SyncChunk(1))
			n, countErr := ob.Count(t.Context(), m.DB, "thing", outbox.All)
			if err != nil || countErr != nil || done.Rows != want || n != want {
				t.Errorf("%d rows sent, %v, %d counted, %v, want %d", done.Rows, err, n, countErr, want)
			}
		}
	})
}
