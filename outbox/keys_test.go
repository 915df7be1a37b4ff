package outbox_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/outbox"
)

// A key that does not fit its column must not be cut or rounded to another row's.
func TestKeysAreNotCutToAnotherRows(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		for _, c := range []struct{ declared, stored, asked string }{
			{"VARCHAR(3)", "abc", "abcdef"}, {"CHAR(3)", "abc", "abcdef"}, {"NUMERIC(10,0)", "7", "7.4"},
		} {
			m.exec(t, `DROP TABLE IF EXISTS things`)
			m.exec(t, `CREATE TABLE things (id `+c.declared+` PRIMARY KEY, name TEXT)`)
			lines, err := migrations.TableSQL(m.dialect, "things")
			if err != nil {
				t.Fatal(err)
			}
			m.exec(t, lines)
			m.exec(t, `INSERT INTO things (id) VALUES ('`+c.stored+`')`)
			m.ob = m.outbox(t, outbox.Entity{ID: "thing", Table: "things"})
			err = m.ob.InTx(t.Context(), m.DB, func(ctx context.Context, tx *outbox.Tx) error {
				return tx.Delete(ctx, "thing", c.asked)
			})
			var missing *outbox.NotFoundError
			if !errors.As(err, &missing) || len(missing.Keys) != 1 || missing.Keys[0] != c.asked {
				t.Errorf("%s: delete of %q: %v, want a NotFoundError that names it", c.declared, c.asked, err)
			}
		}
		m.wantSent(t)
	})
}

func TestOtherFormsOfAKey(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		if m.dialect == outbox.SQLite {
			return // there a key is its text; another form of it is not found
		}
		m.exec(t, `INSERT INTO accounts (id, name) VALUES (7, 'x')`)
		m.inTx(t, func(_ context.Context, tx *outbox.Tx) error { return tx.Saved("account", "007") })
		err := m.ob.InTx(t.Context(), m.DB, func(ctx context.Context, tx *outbox.Tx) error { return tx.Delete(ctx, "account", "007", 8) })
		var missing *outbox.NotFoundError
		if !errors.As(err, &missing) || cmp.Diff([]string{"8"}, missing.Keys) != "" {
			t.Errorf("delete of 007 and 8: %v, want a NotFoundError that names 8 alone", err)
		}
		m.wantSent(t, sent{"account", "7", event.Save, 1, "x"})
	})
}

func TestSavepoint(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		cause := errors.New("not this part")
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
			err := errors.Join(exec(ctx, tx, `INSERT INTO accounts (id, name) VALUES (1, 'one'), (2, 'two')`), tx.Saved("account", 1, 2))
			if err != nil {
				return err
			}
			err = tx.Savepoint(ctx, func(ctx context.Context) error {
				return errors.Join(
					exec(ctx, tx, `INSERT INTO accounts (id, name) VALUES (3, 'three')`), tx.Saved("account", 3),
					tx.Delete(ctx, "account", 1), tx.Flush(ctx), cause)
			})
			if !errors.Is(err, cause) {
				t.Errorf("Savepoint returned %v, want the function's error", err)
			}
			return tx.Savepoint(ctx, func(ctx context.Context) error {
				return errors.Join(exec(ctx, tx, `INSERT INTO accounts (id, name) VALUES (4, 'four')`), tx.Saved("account", 4))
			})
		})
		m.wantSent(t, sent{"account", "1", event.Save, 1, "one"}, sent{"account", "2", event.Save, 1, "two"}, sent{"account", "4", event.Save, 1, "four"})
	})
}

// A deleted row that is put back from an archive with the revision it had must
// not repeat the revision of its DELETE.
func TestRowsPutBackWithTheirRevision(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.exec(t, `INSERT INTO accounts (id, name) VALUES (1, 'x')`)
		m.inTx(t, func(_ context.Context, tx *outbox.Tx) error { return tx.Saved("account", 1) })
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error { return tx.Delete(ctx, "account", 1) })
		m.exec(t, `INSERT INTO accounts (id, name, cqrs_revision) VALUES (1, 'back', 1)`)
		m.inTx(t, func(_ context.Context, tx *outbox.Tx) error { return tx.Saved("account", 1) })
		m.wantSent(t, sent{"account", "1", event.Save, 1, "x"}, sent{"account", "1", event.Delete, 2, nil}, sent{"account", "1", event.Save, 3, "back"})
	})
}

// A table that was altered must not stop its writers until a restart.
func TestAlteredTable(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.exec(t, `INSERT INTO accounts (id, name) VALUES (1, 'x')`)
		save := func() error {
			return m.ob.InTx(t.Context(), m.DB, func(_ context.Context, tx *outbox.Tx) error { return tx.Saved("account", 1) })
		}
		if err := save(); err != nil {
			t.Fatal(err)
		}
		m.exec(t, `ALTER TABLE accounts DROP COLUMN balance`)
		if err := save(); err == nil {
			t.Error("the first save after the change went through; the test proves nothing")
		}
		if err := save(); err != nil {
			t.Errorf("the next save: %v", err)
		}
	})
}
