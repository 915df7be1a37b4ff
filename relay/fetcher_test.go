package relay

import (
	"database/sql"
	"errors"
	"testing"
	"time"
)

// The end of a session does not take the statement from under a read that nobody waits
// for any more: it was given up because the database took long to notice.
func TestFetchGivenUpKeepsItsStatement(t *testing.T) {
	t.Parallel()
	f, err := newTestStore(t, SQLite).fetcher(t.Context(), share{0, 1})
	if err != nil {
		t.Fatal(err)
	}
	f.reading.Lock() // it reads on
	began := time.Now()
	f.close()
	if took := time.Since(began); took < closeTimeout || took > closeTimeout+10*time.Second {
		t.Errorf("the end took %v, want it to wait for the read, for %v at most", took, closeTimeout)
	}
	if err := f.forward.QueryRowContext(t.Context(), 0, 1, 1).Scan(); !errors.Is(err, sql.ErrNoRows) {
		t.Errorf("the statement is gone while it is read from: %v", err)
	}
	f.reading.Unlock()
	for deadline := time.Now().Add(30 * time.Second); ; {
		if _, err := f.after(t.Context(), 0, nil, 1, 1); err != nil {
			break // it has ended
		}
		if time.Now().After(deadline) {
			t.Fatal("the statement is never ended")
		}
		<-time.After(10 * time.Millisecond)
	}
}
