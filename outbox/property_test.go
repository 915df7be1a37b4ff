package outbox_test

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
	"github.com/lockstep-go/lockstep/outbox"
)

const (
	propertyWriters = 6
	propertyKeys    = 5
	propertySeed    = "LOCKSTEP_TEST_SEED" // repeats a run's choices, though not their timing
)

// However transactions on the same keys fall together, each key's events are
// numbered 1, 2, 3 … in the order of their ids, and the last one is the row.
// Previous values are those of the event before. With a condition, numbers of
// rows outside of it are missing, and such a row's last event is a DELETE.
func TestRandomTransactions(t *testing.T) {
	t.Parallel()
	for name, entity := range map[string]outbox.Entity{
		"all rows": {},
		"tracked":  {Tracked: []string{"name"}},
		"where":    {Where: "balance % 3 <> 2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			entity.ID, entity.Table = "account", "accounts"
			randomTransactions(t, entity)
		})
	}
}

func randomTransactions(t *testing.T, entity outbox.Entity) {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv(propertySeed); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("%s: %v", propertySeed, err)
		}
	}
	onEach(t, func(t *testing.T, m master) {
		m.ob = m.outbox(t, entity)
		t.Logf("repeat with %s=%d", propertySeed, seed)
		transactions := 80
		if m.dialect == outbox.MySQL {
			transactions = 50
		}
		writers := make([]*writer, propertyWriters)
		for i := range writers {
			writers[i] = &writer{Rand: rand.New(rand.NewPCG(seed, uint64(i))), master: m}
		}
		done := map[string]int{}
		// Where commits are slow, most transactions collide: more of them, then.
		for round := 0; round == 0 || round < 20 && rarest(done) < 5 && !t.Failed(); round++ {
			var all sync.WaitGroup
			for _, w := range writers {
				all.Go(func() { w.run(t, transactions) })
			}
			all.Wait()
			for _, w := range writers {
				for what, n := range w.done {
					done[what] += n
				}
			}
		}
		t.Logf("operations of committed transactions, and other ends: %v", done)
		if rarest(done) == 0 {
			t.Errorf("not all of %v are there: the test proves too little", propertyEnds)
		}
		m.checkHistories(t, entity)
	})
}

// propertyEnds are the operations and ends of transactions that have to be there.
var propertyEnds = []string{"put", "touch", "remove", "removing", "spare", "recreate", "flush", "undo", "abandoned", "panicked", "cancelled"}

// rarest returns how often the rarest of them was done.
func rarest(done map[string]int) int {
	least := done[propertyEnds[0]]
	for _, what := range propertyEnds {
		least = min(least, done[what])
	}
	return least
}

// writer does random things to rows that others change too.
type writer struct {
	*rand.Rand
	master
	done map[string]int
	did  []string // in the transaction under way
}

var errAbandoned = errors.New("abandoned on purpose")

func (w *writer) run(t *testing.T, transactions int) {
	w.done = map[string]int{}
	for range transactions {
		w.did = nil
		err := w.transaction(t.Context())
		var missing *outbox.NotFoundError
		var overtaken *outbox.TrackError // a row that was created after it had been looked for
		var class dialect.Class
		if err != nil {
			class = dialect.Classify(err)
		}
		switch {
		case err == nil:
			for _, what := range w.did {
				w.done[what]++
			}
		case errors.Is(err, errAbandoned):
			w.done["abandoned"]++
		case errors.Is(err, errPanicked):
			w.done["panicked"]++
		case errors.Is(err, context.Canceled), errors.Is(err, sql.ErrTxDone), class == dialect.Canceled:
			w.done["cancelled"]++
		case errors.As(err, &missing), errors.As(err, &overtaken), class == dialect.Conflict, class == dialect.Data: // another was faster
			w.done["collided"]++
		default:
			t.Errorf("a transaction of %v: %v", w.did, err)
			return
		}
	}
}

var errPanicked = errors.New("panicked on purpose")

// transaction runs one transaction to one of its possible ends.
func (w *writer) transaction(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	end := w.IntN(14)
	body := func(ctx context.Context, tx *outbox.Tx) error {
		if w.dialect == outbox.Postgres { // a deadlock is noticed only after a second
			if err := exec(ctx, tx, `SET LOCAL lock_timeout = '50ms'`); err != nil {
				return err
			}
		}
		if w.dialect == outbox.MySQL { // a cancelled transaction's locks are held until the server notices
			if err := exec(ctx, tx, `SET innodb_lock_wait_timeout = 1`); err != nil {
				return err
			}
		}
		if err := w.operations(ctx, tx, 1+w.IntN(4)); err != nil {
			return err
		}
		switch end {
		case 0:
			return errAbandoned
		case 1:
			panic(errPanicked)
		case 2, 3:
			if w.dialect == outbox.MySQL && end == 3 {
				break // a server that waits for a lock keeps its own until then
			}
			cancel()
		}
		return nil
	}
	if end >= 10 {
		return w.owned(ctx, body)
	}
	defer func() {
		if r := recover(); r != nil {
			err = r.(error)
		}
	}()
	return w.ob.InTx(ctx, w.DB, body)
}

// owned runs body in a transaction that is begun and committed here.
func (w *writer) owned(ctx context.Context, body func(context.Context, *outbox.Tx) error) error {
	sqlTx, err := w.BeginTx(ctx, &sql.TxOptions{})
	if err != nil {
		return err
	}
	defer func() { _ = sqlTx.Rollback() }()
	tx := w.ob.Wrap(sqlTx)
	if err := cmp.Or(body(ctx, tx), tx.Flush(ctx)); err != nil {
		return err
	}
	return sqlTx.Commit()
}

func (w *writer) operations(ctx context.Context, tx *outbox.Tx, n int) error {
	for range n {
		what, do := w.operation(ctx, tx, w.IntN(propertyKeys))
		if err := do(); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		w.did = append(w.did, what)
	}
	return nil
}

func (w *writer) operation(ctx context.Context, tx *outbox.Tx, key int) (what string, do func() error) {
	row := fmt.Sprintf(`WHERE id = %d`, key)
	insert := func() error {
		return cmp.Or(exec(ctx, tx, fmt.Sprintf(`INSERT INTO accounts (id, name) VALUES (%d, '%s')`, key, w.name())), tx.Saved("account", key))
	}
	operation := w.IntN(16)
	if operation != 11 && operation != 12 && operation != 13 {
		if err := tx.Track(ctx, "account", key); err != nil {
			return "track", func() error { return err }
		}
	}
	if operation >= 3 && operation <= 10 {
		var there int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM accounts `+row).Scan(&there); err != nil {
			return "look", func() error { return err }
		}
		if there == 0 {
			return "put", insert
		}
	}
	switch operation {
	case 3:
		return "touch", func() error { return tx.Saved("account", key) }
	case 4, 5:
		return "remove", func() error { return tx.Delete(ctx, "account", key) }
	case 6, 7:
		return "removing", func() error {
			return cmp.Or(tx.Deleting(ctx, "account", key), exec(ctx, tx, `DELETE FROM accounts `+row))
		}
	case 8:
		return "spare", func() error { return cmp.Or(tx.Deleting(ctx, "account", key), tx.Saved("account", key)) }
	case 9, 10:
		return "recreate", func() error { return cmp.Or(tx.Delete(ctx, "account", key), insert()) }
	case 11:
		return "flush", func() error { return tx.Flush(ctx) }
	case 12, 13:
		return "savepoint", func() error { return w.savepoint(ctx, tx) }
	}
	return "put", func() error {
		result, err := tx.ExecContext(ctx, fmt.Sprintf(`UPDATE accounts SET name = '%s', balance = balance + 1 `, w.name())+row)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return cmp.Or(err, insert())
		}
		return tx.Saved("account", key)
	}
}

func (w *writer) name() string { return strconv.FormatUint(w.Uint64(), 36) }

// savepoint does a part that is taken back half of the time.
func (w *writer) savepoint(ctx context.Context, tx *outbox.Tx) error {
	before := len(w.did)
	undo := w.IntN(2) == 0
	err := tx.Savepoint(ctx, func(ctx context.Context) error {
		if err := w.operations(ctx, tx, 1+w.IntN(3)); err != nil || !undo {
			return err
		}
		return errAbandoned
	})
	if errors.Is(err, errAbandoned) {
		w.did = append(w.did[:before], "undo")
		return nil
	}
	return err
}

// history is what is known of a key after one of its events.
type history struct {
	signal   event.Signal
	revision int64
	updated  time.Time
	id       int64 // of the outbox row
	Name     string
	Balance  int64
	previous string
}

// follow compares an event with the one of its key before.
func (before history) follow(t *testing.T, now history, entity outbox.Entity) {
	t.Helper()
	if now.revision != before.revision+1 && (entity.Where == "" || now.revision <= before.revision) {
		t.Errorf("revision %d (outbox id %d) after revision %d (id %d)", now.revision, now.id, before.revision, before.id)
	}
	if now.updated.Before(before.updated) {
		t.Errorf("revision %d is of %v, revision %d before it of %v", now.revision, now.updated, before.revision, before.updated)
	}
	if len(entity.Tracked) == 0 || now.signal != event.Save || before.signal == event.Delete {
		return
	}
	want := "{}"
	switch {
	case before.signal == "":
		want = `{"name":null}`
	case before.Name != now.Name:
		want = fmt.Sprintf(`{"name":%q}`, before.Name)
	}
	if now.previous != want {
		t.Errorf("revision %d has previous values %s, want %s", now.revision, now.previous, want)
	}
}

// checkHistories compares each key's events with each other and with its row.
func (m master) checkHistories(t *testing.T, entity outbox.Entity) {
	t.Helper()
	last := map[string]history{}
	eventIDs := map[string]bool{}
	again := 0
	for _, row := range m.rows(t) {
		e, err := event.Decode(row.payload)
		if err != nil {
			t.Fatalf("payload %s: %v", row.payload, err)
		}
		v, err := e.Version()
		if err != nil {
			t.Fatalf("payload %s: %v", row.payload, err)
		}
		before := last[row.key]
		now := history{signal: e.Signal, revision: v.Revision, updated: v.Updated, id: row.id, previous: strings.ReplaceAll(string(e.Previous), " ", "")}
		if err := json.Unmarshal(e.Data, &now); err != nil {
			t.Fatal(err)
		}
		before.follow(t, now, entity)
		if t.Failed() {
			t.Fatalf("key %s: %s", row.key, row.payload)
		}
		if before.signal == event.Delete && now.signal == event.Save {
			again++
		}
		if eventIDs[row.metadata] {
			t.Errorf("metadata %s twice: an event's id is its own", row.metadata)
		}
		eventIDs[row.metadata] = true
		last[row.key] = now
	}
	if len(eventIDs) < 50 || again < 3 {
		t.Errorf("%d events, %d rows created again: the test proves too little", len(eventIDs), again)
	}
	m.checkRows(t, last, entity)
}

// checkRows compares the rows with the last event of each key.
func (m master) checkRows(t *testing.T, last map[string]history, entity outbox.Entity) {
	t.Helper()
	rows, err := m.QueryContext(t.Context(), `SELECT id, name, balance, cqrs_revision FROM accounts`)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var key string
		var have history
		if err := rows.Scan(&key, &have.Name, &have.Balance, &have.revision); err != nil {
			t.Fatal(err)
		}
		if entity.Where != "" && have.Balance%3 == 2 {
			continue // replicas must not have it: below
		}
		want := last[key]
		switch {
		case want.signal != event.Save:
			t.Errorf("key %s: the row is there, the last event is %+v", key, want)
		case want.Name != have.Name || want.Balance != have.Balance || want.revision != have.revision:
			t.Errorf("key %s: the last event is %+v, the row %+v", key, want, have)
		}
		delete(last, key)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	for key, want := range last {
		if want.signal != event.Delete {
			t.Errorf("key %s: there is no row for replicas, the last event is %+v", key, want)
		}
	}
}
