package relay_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/relay"
)

// A call whose context ends while it waits for the database says that it was canceled,
// and why, whatever the driver and the server make of that.
func TestCanceledCallsSayWhy(t *testing.T) {
	t.Parallel()
	db, _ := testdb.Postgres(t)
	m := migrated(t, db, relay.Postgres)
	held, err := m.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = held.Rollback() }()
	if _, err := held.ExecContext(t.Context(), `LOCK TABLE outbox, outbox_dead IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	admin, errStopped := m.admin(t), errors.New("stopped")
	for what, call := range map[string]func(ctx context.Context) error{
		"DeadLetters": func(ctx context.Context) error { _, err := admin.DeadLetters(ctx, 0, 1); return err },
		"PurgeDead":   func(ctx context.Context) error { _, err := admin.PurgeDead(ctx, 1); return err },
		"Overview":    func(ctx context.Context) error { _, err := admin.Overview(ctx); return err },
		"Payload":     func(ctx context.Context) error { _, err := admin.Payload(ctx, 1); return err },
	} {
		t.Run(what, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(200*time.Millisecond, func() { cancel(errStopped) })
			if err := call(ctx); !errors.Is(err, context.Canceled) || !errors.Is(err, errStopped) {
				t.Errorf("%v, want that it was canceled, and why", err)
			}
		})
	}
}
