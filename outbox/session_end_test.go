package outbox_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/outbox"
)

// within fails the test if work takes longer than any transaction may.
func within(t *testing.T, work func() error) (panicked any, err error) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { panicked = recover() }()
		err = work()
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("the transaction does not come to an end")
	}
	return panicked, err
}

// A function may return before it has read a result to its end, and without
// closing it. The transaction ends all the same, and so does one that fails.
func TestResultsThatAreLeftOpen(t *testing.T) {
	t.Parallel()
	cause := errors.New("seen enough")
	for name, leave := range map[string]func(ctx context.Context, tx *outbox.Tx) error{
		"rows": func(ctx context.Context, tx *outbox.Tx) error {
			rows, err := tx.QueryContext(ctx, `SELECT id FROM accounts`) //nolint:rowserrcheck,sqlclosecheck // that is the test
			return errors.Join(err, next(rows.Next()))
		},
		"a row": func(ctx context.Context, tx *outbox.Tx) error {
			tx.QueryRowContext(ctx, `SELECT id FROM accounts`)
			return nil
		},
		"a prepared statement's": func(ctx context.Context, tx *outbox.Tx) error {
			statement, err := tx.PrepareContext(ctx, `SELECT id FROM accounts`) //nolint:sqlclosecheck // that is the test
			if err != nil {
				return err
			}
			rows, err := statement.QueryContext(ctx) //nolint:rowserrcheck // that is the test
			t.Cleanup(func() { _ = rows.Close() })
			return errors.Join(err, next(rows.Next()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := single(t)
			m.SetMaxOpenConns(4)
			m.exec(t, `INSERT INTO accounts (id, name) SELECT n, repeat('x', 100) FROM generate_series(2, 10000) n`)
			for _, how := range []string{"returns", "fails", "panics"} {
				before := len(m.sent(t))
				panicked, err := within(t, func() error {
					return m.ob.InTx(t.Context(), m.DB, func(ctx context.Context, tx *outbox.Tx) error {
						if err := errors.Join(exec(ctx, tx, `UPDATE accounts SET name = 'left' WHERE id = 1`), leave(ctx, tx)); err != nil {
							return err
						}
						switch how {
						case "fails":
							return cause
						case "panics":
							panic("boom")
						}
						return tx.Saved("account", 1)
					})
				})
				switch {
				case how == "fails" && !errors.Is(err, cause), how == "panics" && panicked != any("boom"):
					t.Errorf("%s: %v, %v", how, err, panicked)
				case how != "returns" || strings.Contains(name, "prepared"):
					if err == nil && panicked == nil {
						t.Errorf("%s: no error", how)
					}
					if have := len(m.sent(t)); have != before {
						t.Errorf("%s: it left an event", how)
					}
				case err != nil || len(m.sent(t)) != before+1:
					t.Errorf("%s: %v, %d events", how, err, len(m.sent(t)))
				}
				m.exec(t, `UPDATE accounts SET name = 'free' WHERE id = 1`) // nobody holds its lock
			}
			if err := m.raise(t.Context(), m.ob); err != nil {
				t.Errorf("the next transaction: %v", err)
			}
		})
	}
}

func next(has bool) error {
	if !has {
		return errors.New("no rows")
	}
	return nil
}

// A COMMIT or a ROLLBACK that the function runs itself is not taken for InTx's.
func TestTransactionsThatTheFunctionEnds(t *testing.T) {
	t.Parallel()
	m := single(t)
	for _, statement := range []string{"ROLLBACK", "COMMIT"} {
		for _, keys := range [][]any{nil, {1}, {1, 2}} {
			err := m.ob.InTx(t.Context(), m.DB, func(ctx context.Context, tx *outbox.Tx) error {
				return errors.Join(exec(ctx, tx, `INSERT INTO accounts (id, name) VALUES (2, 'x') ON CONFLICT DO NOTHING`), exec(ctx, tx, statement), tx.Saved("account", keys...))
			})
			if err == nil {
				t.Errorf("%s within the function, %d keys marked: InTx returned nil", statement, len(keys))
			}
		}
	}
	if err := m.raise(t.Context(), m.ob); err != nil {
		t.Error(err)
	}
}

// What a COMMIT finds is not blamed on the row that was recorded with it.
func TestDeferredConstraints(t *testing.T) {
	t.Parallel()
	m := single(t)
	m.exec(t, `CREATE TABLE orders (id INTEGER PRIMARY KEY, buyer INTEGER REFERENCES accounts DEFERRABLE INITIALLY DEFERRED)`)
	for range 3 { // unprepared, and prepared
		err := m.ob.InTx(t.Context(), m.DB, func(ctx context.Context, tx *outbox.Tx) error {
			return errors.Join(exec(ctx, tx, `INSERT INTO orders VALUES (1, 404)`), tx.Saved("account", 1))
		})
		var row *outbox.RowError
		if err == nil || errors.As(err, &row) || !strings.Contains(err.Error(), "outbox: commit: ") {
			t.Errorf("%v, want the commit's error, not one of account/1", err)
		}
	}
	m.wantSent(t)
	if err := m.raise(t.Context(), m.ob); err != nil {
		t.Error(err)
	}
}
