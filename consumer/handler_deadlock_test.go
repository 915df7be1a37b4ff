package consumer

import (
	"context"
	"database/sql"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/internal/dialect"
)

// TestHandlerThatSwallowsADeadlock: on MySQL a deadlock undoes the note that the event
// was seen, and what a handler writes after it would be committed by itself. So the event
// is handled again, with nothing left of the call before, whatever the handler returned.
func TestHandlerThatSwallowsADeadlock(t *testing.T) {
	t.Parallel()
	calls := 0
	var r *rig
	r = authorConsumer(t, MySQL, Config{}, func(ctx context.Context, tx Tx, ev Event[author]) error {
		if calls++; calls == 1 {
			deadlock(ctx, t, r.db, tx)
		}
		_ = logAuthor(ctx, tx, ev) // as if it were of no importance
		return nil
	})
	mustExec(t, r.db, "CREATE TABLE place (id bigint PRIMARY KEY, n bigint NOT NULL)")
	mustExec(t, r.db, "INSERT INTO place VALUES (1, 0), (2, 0)")
	o, err := r.Apply(t.Context(), authorEvent("SAVE", 1, 1, "ann"))
	if err != nil || o.Result != Applied {
		t.Fatalf("have %+v, %v", o, err)
	}
	if diff := cmp.Diff([]string{"kind=create id=1 name=ann revision=1"}, r.authorLog(t)); diff != "" || calls != 2 {
		t.Errorf("%d calls, want 2; the log (-want +have):\n%s", calls, diff)
	}
	if o, err := r.Apply(t.Context(), authorEvent("SAVE", 1, 1, "ann")); err != nil || o.Result != Duplicate {
		t.Errorf("delivered again: %+v, %v, want a duplicate", o, err)
	}
}

// deadlock gets the handler's transaction into one that it loses, and says nothing of it.
func deadlock(ctx context.Context, t *testing.T, db *sql.DB, tx Tx) {
	t.Helper()
	other, err := db.BeginTx(ctx, nil)
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = other.Rollback() }()
	exec := func(statement string) {
		if _, err := other.ExecContext(ctx, statement); err != nil {
			t.Errorf("%s: %v", statement, err)
		}
	}
	exec("INSERT INTO place VALUES (11, 0), (12, 0), (13, 0), (14, 0), (15, 0), (16, 0), (17, 0)") // the server gives up who has written less
	exec("UPDATE place SET n = 1 WHERE id = 1")
	if _, err := tx.ExecContext(ctx, "UPDATE place SET n = 2 WHERE id = 2"); err != nil {
		t.Error(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := tx.ExecContext(ctx, "UPDATE place SET n = 2 WHERE id = 1") // waits for the other
		if dialect.Classify(err) != dialect.Conflict {
			t.Errorf("have %v, want a deadlock", err)
		}
	}()
	exec("UPDATE place SET n = 1 WHERE id = 2") // waits for the handler's
	<-done
}
