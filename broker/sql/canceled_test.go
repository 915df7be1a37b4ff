package sql_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/broker/sql"
)

// TestEndedCallsSayWhy: a call whose context ends, or whose time is over, says so, whatever the driver and
// the server make of that.
func TestEndedCallsSayWhy(t *testing.T) {
	t.Parallel()
	db, at := newRig(t)
	const timeout = 5 * time.Second
	b := open(t, at, sql.Config{ConfirmTimeout: timeout})
	bind(t, b, "billing", "account")
	publish(t, b, "0")
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(t.Context(), `LOCK TABLE queues, bindings, consumers, messages IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	errStopped := errors.New("stopped")
	calls := map[string]func(ctx context.Context) error{
		"Bind":        func(ctx context.Context) error { return b.Bind(ctx, "other", "account") },
		"DeleteQueue": func(ctx context.Context) error { return b.DeleteQueue(ctx, "other") },
		"Bound":       func(ctx context.Context) error { _, err := b.Bound(ctx, "account"); return err },
		"Subscribe":   func(ctx context.Context) error { _, err := b.Subscribe(ctx, "billing"); return err },
		"Inspect":     func(ctx context.Context) error { _, _, err := b.Inspect(ctx, "billing"); return err },
		"Browse": func(ctx context.Context) error {
			return b.Browse(ctx, "billing", func(*message.Message) (bool, error) { return false, nil })
		},
	}
	for what, call := range calls {
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(100*time.Millisecond, func() { cancel(errStopped) })
		if err := call(ctx); !errors.Is(err, context.Canceled) || !errors.Is(err, errStopped) {
			t.Errorf("%s: %v, want that it was canceled, and why", what, err)
		}
	}
	if err := calls["Inspect"](t.Context()); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no answer in time") {
		t.Errorf("Inspect: %v, want that there was no answer in time", err)
	}
}
