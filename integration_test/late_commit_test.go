package integration_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/outbox"
)

// Ids are drawn before the commit, so rows appear below the position up to which
// the relay has read. A transaction that stays open delays nobody else's.
func TestTransactionThatCommitsLate(t *testing.T) {
	t.Parallel()
	r := newRig(t, account())
	r.startRelay(t)
	r.startConsumer(t)
	soon, late, never := r.open(t, 1001), r.open(t, 1002), r.open(t, 1003)
	written := int64(0)
	others := func() {
		written++
		r.do(t, func(ctx context.Context, tx *outbox.Tx) error {
			return r.put(ctx, tx, written, fmt.Sprint("account ", written))
		})
		until(t, "a transaction that began later is replicated", func() bool { return r.applied(t) >= written })
	}
	others()
	commit(t, soon)
	written++ // its one row
	others()
	// Longer than the relay takes a missing id for one that is about to commit.
	for began := time.Now(); time.Since(began) < 1500*time.Millisecond; {
		others()
	}
	if err := never.Rollback(); err != nil {
		t.Fatal(err)
	}
	others()
	commit(t, late)
	r.settled(t)
}

// open begins a transaction that makes an account and draws its outbox id.
func (r *rig) open(t *testing.T, key int64) *sql.Tx {
	t.Helper()
	sqlTx, err := r.master.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	tx := r.ob.Wrap(sqlTx)
	if err := r.put(t.Context(), tx, key, "late"); err != nil {
		t.Fatal(err)
	}
	if err := tx.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	return sqlTx
}

func commit(t *testing.T, tx *sql.Tx) {
	t.Helper()
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
}
