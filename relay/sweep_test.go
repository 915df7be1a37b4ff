package relay

import (
	"context"
	"log/slog"
	"testing"
	"time"
)

// While confirmed rows are being deleted they are still in the table: read from its
// beginning then, they would all be sent a second time.
func TestNoSweepWhileConfirmedRowsAreDeleted(t *testing.T) {
	t.Parallel()
	store := newTestStore(t, SQLite)
	db := store.db
	if _, err := db.ExecContext(t.Context(), `INSERT INTO outbox (topic, key, payload) VALUES ('account', 'a', '{}')`); err != nil {
		t.Fatal(err)
	}
	r := &Relay{store: store, log: slog.New(slog.DiscardHandler), policy: testPolicy}
	s := &session{Relay: r, lease: &lease{share: share{0, 1}}, ledger: newLedger(), settled: make(chan struct{}, 1)}
	var err error
	if s.delete, err = r.store.deleter(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer s.delete.close()
	s.ledger.read(1)
	rows := s.ledger.admit(rowsOf("a", 1))
	writing, err := db.BeginTx(t.Context(), nil) // the deletion waits for its end
	if err != nil {
		t.Fatal(err)
	}
	deleted := make(chan error, 1)
	go func() {
		deleted <- s.settle(t.Context(), batch{rows: rows, wait: func(context.Context) []error { return nil }})
	}()
	for deadline := time.Now().Add(30 * time.Second); s.ledger.underWay() > 0 && time.Now().Before(deadline); {
		<-time.After(time.Millisecond)
	}
	if s.sweep(); s.ledger.readPosition() != 1 {
		t.Error("the table is read from its beginning while a confirmed row is being deleted")
	}
	if err := writing.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := <-deleted; err != nil {
		t.Fatal(err)
	}
	if s.sweep(); s.ledger.readPosition() != 0 {
		t.Error("the table is not read from its beginning when the row is deleted")
	}
}
