package relay

import (
	"context"
	"sync"
	"testing"
	"time"
)

// InnoDB tells of the transactions that run from a copy, and does not renew it while several
// ask at once, as relays do. What it tells then is not taken for what is.
func TestHorizonWhileOthersAsk(t *testing.T) {
	t.Parallel()
	store := newTestStore(t, MySQL)
	db := store.db
	f, err := store.fetcher(t.Context(), share{0, 1})
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	asking, stop := context.WithCancel(t.Context())
	var others sync.WaitGroup
	defer others.Wait()
	defer stop()
	for range 4 {
		others.Go(func() {
			for asking.Err() == nil {
				var n int
				_ = db.QueryRowContext(asking, `SELECT COUNT(*) FROM information_schema.innodb_trx`).Scan(&n)
				wait(asking, 20*time.Millisecond)
			}
		})
	}
	wait(t.Context(), 300*time.Millisecond)
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(t.Context(), "INSERT INTO outbox (topic, `key`, payload) VALUES ('account', 'a', 'a1')"); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		xmin, xmax, fresh, err := f.horizon(t.Context())
		if err != nil || fresh && xmin >= xmax {
			t.Fatalf("lowest %d, next %d, %v; want that a transaction runs, or that it is not known", xmin, xmax, err)
		}
		wait(t.Context(), 50*time.Millisecond)
	}
	stop()
	for deadline := time.Now().Add(time.Minute); ; wait(t.Context(), 300*time.Millisecond) {
		xmin, xmax, fresh, err := f.horizon(t.Context())
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("when nobody else asks: fresh %v, %v", fresh, err)
		}
		if fresh {
			if xmin >= xmax {
				t.Errorf("lowest %d, next %d, want that a transaction runs", xmin, xmax)
			}
			return
		}
	}
}
