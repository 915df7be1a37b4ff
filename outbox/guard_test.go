package outbox_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/outbox"
)

// onEachGuarded is onEach with a pool that refuses to lose events.
func onEachGuarded(t *testing.T, test func(t *testing.T, m master)) {
	for name, d := range map[string]struct {
		dialect outbox.Dialect
		driver  string
		open    func(testing.TB) (*sql.DB, string)
	}{"postgres": {outbox.Postgres, "postgres", testdb.Postgres}, "mysql": {outbox.MySQL, "mysql", testdb.MariaDB}, "sqlite": {outbox.SQLite, "sqlite", testdb.SQLite}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plain, dsn := d.open(t)
			m := newMaster(t, plain, d.dialect)
			guarded, err := m.ob.Open(d.driver, dsn)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = guarded.Close() })
			m.DB = guarded
			test(t, m)
		})
	}
}

func (m master) begin(t *testing.T) *sql.Tx {
	t.Helper()
	sqlTx, err := m.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sqlTx.Rollback() })
	return sqlTx
}

func TestForgottenFlushIsRefused(t *testing.T) {
	t.Parallel()
	onEachGuarded(t, func(t *testing.T, m master) {
		insert := func(sqlTx *sql.Tx) {
			t.Helper()
			if _, err := sqlTx.ExecContext(t.Context(), `INSERT INTO accounts (id, name) VALUES (1, 'x')`); err != nil {
				t.Fatal(err)
			}
		}
		for what, mark := range map[string]func(tx *outbox.Tx) error{
			"account/1 (and 1 more)": func(tx *outbox.Tx) error { return tx.Saved("account", 1, 2) },
			"a message on mail":      func(tx *outbox.Tx) error { return tx.Publish("mail", message.NewMessage("", nil)) },
		} {
			sqlTx := m.begin(t)
			insert(sqlTx)
			_ = m.ob.Wrap(sqlTx) // a Tx without marks beside it
			if err := mark(m.ob.Wrap(sqlTx)); err != nil {
				t.Fatal(err)
			}
			err := sqlTx.Commit()
			if !errors.Is(err, outbox.ErrNotFlushed) || !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), "Tx.Flush") {
				t.Errorf("commit returned %v, want an ErrNotFlushed that names %s", err, what)
			}
			m.wantAccounts(t, 0)
			m.wantSent(t)
		}

		// The next transaction on the connection starts afresh.
		sqlTx := m.begin(t)
		insert(sqlTx)
		if err := sqlTx.Commit(); err != nil {
			t.Errorf("a transaction that nobody wrapped: %v", err)
		}
		sqlTx = m.begin(t)
		tx := m.ob.Wrap(sqlTx)
		if err := errors.Join(tx.Saved("account", 1), tx.Flush(t.Context()), sqlTx.Commit()); err != nil {
			t.Errorf("a transaction that was flushed: %v", err)
		}
		sqlTx = m.begin(t)
		if err := errors.Join(m.ob.Wrap(sqlTx).Saved("account", 1), sqlTx.Rollback()); err != nil {
			t.Errorf("a rollback with marks: %v", err)
		}
		m.inTx(t, func(_ context.Context, tx *outbox.Tx) error { return tx.Saved("account", 1) })
		m.wantSent(t, sent{"account", "1", event.Save, 1, "x"}, sent{"account", "1", event.Save, 2, "x"})
	})
}

func TestCommitFlushes(t *testing.T) {
	t.Parallel()
	check := func(t *testing.T, m master) {
		ctx := t.Context()
		sqlTx := m.begin(t)
		tx := m.ob.Wrap(sqlTx)
		if err := errors.Join(exec(ctx, tx, `INSERT INTO accounts (id, name) VALUES (1, 'x')`), tx.Saved("account", 1), tx.Commit(ctx)); err != nil {
			t.Fatal(err)
		}
		if err := tx.Rollback(); !errors.Is(err, sql.ErrTxDone) {
			t.Errorf("Rollback after Commit: %v, want sql.ErrTxDone", err)
		}

		tx = m.ob.Wrap(m.begin(t))
		var missing *outbox.NotFoundError
		err := errors.Join(exec(ctx, tx, `INSERT INTO accounts (id, name) VALUES (2, 'x')`), tx.Saved("account", 2, 3), tx.Commit(ctx))
		if !errors.As(err, &missing) {
			t.Errorf("Commit: %v, want a NotFoundError", err)
		}
		tx = m.ob.Wrap(m.begin(t))
		if err := errors.Join(exec(ctx, tx, `DELETE FROM accounts`), tx.Saved("account", 1), tx.Rollback()); err != nil {
			t.Errorf("Rollback with marks: %v", err)
		}
		m.wantAccounts(t, 1)

		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
			for _, err := range []error{tx.Commit(ctx), tx.Rollback()} {
				if err == nil || !strings.Contains(err.Error(), "InTx ends its transaction itself") {
					t.Errorf("inside of InTx: %v", err)
				}
			}
			return tx.Saved("account", 1)
		})
		m.wantSent(t, sent{"account", "1", event.Save, 1, "x"}, sent{"account", "1", event.Save, 2, "x"})
	}
	t.Run("guarded", func(t *testing.T) {
		t.Parallel()
		onEachGuarded(t, check)
	})
	t.Run("plain", func(t *testing.T) {
		t.Parallel()
		onEach(t, check)
	})
}

// A guarded pool is as good as any other for all that database/sql does.
func TestGuardedPool(t *testing.T) {
	t.Parallel()
	onEachGuarded(t, func(t *testing.T, m master) {
		ctx := t.Context()
		if err := errors.Join(m.PingContext(ctx), m.ob.Check(ctx, m.DB)); err != nil {
			t.Fatal(err)
		}
		marks := []string{"$1", "$2"}
		if m.dialect == outbox.MySQL {
			marks = []string{"?", "?"}
		}
		insert, err := m.PrepareContext(ctx, `INSERT INTO accounts (id, name) VALUES (`+strings.Join(marks, ", ")+`)`)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = insert.Close() }()
		for key := range 3 {
			if _, err := insert.ExecContext(ctx, key, "x"); err != nil {
				t.Fatal(err)
			}
		}
		sqlTx, err := m.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable, ReadOnly: m.dialect == outbox.Postgres})
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if err := errors.Join(sqlTx.QueryRowContext(ctx, `SELECT count(*) FROM accounts WHERE name = `+marks[0], "x").Scan(&n), sqlTx.Commit()); err != nil || n != 3 {
			t.Errorf("%d rows, %v", n, err)
		}
	})
	ob, err := outbox.New(outbox.Config{Dialect: outbox.Postgres, Entities: []outbox.Entity{{ID: "account", Table: "accounts"}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ob.Open("oracle", ""); err == nil {
		t.Error("a driver that is not there was opened")
	}
}

// TestATransactionThatHasEndedSaysSo, whatever is done with its Tx.
func TestATransactionThatHasEndedSaysSo(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		var kept *outbox.Tx
		m.inTx(t, func(_ context.Context, tx *outbox.Tx) error {
			kept = tx
			return nil
		})
		sqlTx, err := m.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		wrapped := m.ob.Wrap(sqlTx)
		if err := wrapped.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		for name, tx := range map[string]*outbox.Tx{"InTx": kept, "Wrap": wrapped} {
			for call, err := range map[string]error{
				"Saved": tx.Saved("account", 1), "Flush": tx.Flush(t.Context()), "Commit": tx.Commit(t.Context()),
				"Delete": tx.Delete(t.Context(), "account", 1), "Rollback": tx.Rollback(),
			} {
				said := call == "Rollback" || err != nil && strings.Contains(err.Error(), "the transaction has ended")
				if !errors.Is(err, sql.ErrTxDone) || !said {
					t.Errorf("%s: %s after the end: %v", name, call, err)
				}
			}
		}
	})
}

func TestErrorsOfKeys(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		rollback := errors.New("seen enough")
		err := m.ob.InTx(t.Context(), m.DB, func(ctx context.Context, tx *outbox.Tx) error {
			if err := tx.Saved("account"); err != nil {
				t.Errorf("no keys: %v", err)
			}
			for want, err := range map[string]error{
				"[]int64 holds keys: pass them one by one, or mark rows by SavedRows": tx.Saved("account", []int64{1, 2}),
				"it is null": tx.Saved("account", []byte(nil)),
				"outbox: account/404 does not exist, so its deletion cannot be sent": tx.Delete(ctx, "account", 404),
			} {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("have %v, want %s", err, want)
				}
			}
			return rollback
		})
		if !errors.Is(err, rollback) {
			t.Error(err)
		}
	})
}
