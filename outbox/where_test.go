package outbox_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/outbox"
)

// both runs a test with an entity whose events the database makes, where it can,
// and with one whose events are made here.
func both(t *testing.T, m master, e outbox.Entity, test func(t *testing.T, m master)) {
	t.Helper()
	for name, meta := range map[string]func(context.Context, outbox.Instance) (map[string]any, error){
		"direct": nil, "here": func(context.Context, outbox.Instance) (map[string]any, error) { return nil, nil },
	} {
		t.Run(name, func(t *testing.T) {
			m.exec(t, `DELETE FROM accounts`)
			m.exec(t, `DELETE FROM outbox`)
			m.exec(t, `DELETE FROM outbox_tombstones`)
			e.Meta = meta
			test(t, m.account(t, e))
		})
	}
}

func TestRowsEnterAndLeaveWhere(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		both(t, m, outbox.Entity{Where: "balance >= 0"}, func(t *testing.T, m master) {
			m.save(t, `INSERT INTO accounts (id, name, balance) VALUES (1, 'in', 5), (2, 'out', -5)`, 1, 2)
			m.save(t, `UPDATE accounts SET balance = -1 WHERE id = 1`, 1, 2) // 1 leaves, 2 stays outside
			m.save(t, `UPDATE accounts SET balance = -2 WHERE id = 1`, 1)    // stays outside
			m.save(t, `UPDATE accounts SET balance = 0`, 1, 2)               // both enter
			m.save(t, `UPDATE accounts SET balance = -3 WHERE id = 2`, 2)    // leaves
			m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error { return tx.Delete(ctx, "account", 2, 1) })
			m.save(t, `INSERT INTO accounts (id, name, balance) VALUES (1, 'out again', -1)`, 1)
			m.save(t, `UPDATE accounts SET balance = 1, name = 'in again'`, 1)
			m.wantSent(t,
				sent{"account", "1", event.Save, 1, "in"},
				sent{"account", "1", event.Delete, 2, nil},
				sent{"account", "1", event.Save, 4, "in"}, sent{"account", "2", event.Save, 3, "out"},
				sent{"account", "2", event.Delete, 4, nil},
				sent{"account", "2", event.Delete, 5, nil}, sent{"account", "1", event.Delete, 5, nil},
				sent{"account", "1", event.Save, 7, "in again"})
			err := m.ob.InTx(t.Context(), m.DB, func(_ context.Context, tx *outbox.Tx) error { return tx.Saved("account", 1, 9) })
			if missing := (*outbox.NotFoundError)(nil); !errors.As(err, &missing) || len(missing.Keys) != 1 {
				t.Errorf("a missing key: %v, want a NotFoundError of it alone", err)
			}
		})
	})
}

func TestRowsLeaveSilently(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		both(t, m, outbox.Entity{Where: "balance >= 0", Leave: outbox.LeaveSilently}, func(t *testing.T, m master) {
			m.save(t, `INSERT INTO accounts (id, name, balance) VALUES (1, 'in', 5)`, 1)
			m.save(t, `UPDATE accounts SET balance = -1`, 1)
			m.save(t, `UPDATE accounts SET balance = 1`, 1)
			m.wantSent(t, sent{"account", "1", event.Save, 1, "in"}, sent{"account", "1", event.Save, 3, "in"})
		})
	})
}

// A NULL condition is not fulfilled, a column may be called as the statements call
// theirs, and a SYNC knows the condition, too.
func TestWhereOverAnyColumn(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.exec(t, `CREATE TABLE things (id INTEGER PRIMARY KEY, "key" TEXT, revision INTEGER, entity TEXT, k0 TEXT, ord INTEGER, event_id TEXT, d TEXT)`)
		m.addVersions(t, "things")
		m.ob = m.outbox(t, outbox.Entity{
			ID: "thing", Table: "things",
			Where: `"key" = 'it''s;--' AND (revision IS NULL OR revision > 3) AND entity = 'e' AND k0 = 'k' AND ord < 5 AND event_id <> 'x' AND d IN ('(', ')')`,
		})
		m.exec(t, `INSERT INTO things (id, "key", entity, k0, ord, event_id, d)
			VALUES (1, 'it''s;--', 'e', 'k', 1, 'y', ')'), (2, 'it''s;--', 'e', 'k', NULL, 'y', '('), (3, 'x', 'e', 'k', 1, 'y', '(')`)
		m.inTx(t, func(_ context.Context, tx *outbox.Tx) error { return tx.Saved("thing", 1, 2, 3) })
		m.inTx(t, func(_ context.Context, tx *outbox.Tx) error { return tx.Saved("thing", 1) })
		if _, err := m.ob.Sync(t.Context(), m.DB, "thing", outbox.All, ""); err != nil {
			t.Fatal(err)
		}
		m.wantSent(t, sent{"thing", "1", event.Save, 1, nil}, sent{"thing", "1", event.Save, 2, nil}, sent{"thing", "1", event.Sync, 2, nil})
	})
}

// What leaves carries DeleteData, too.
func TestLeavingWithDeleteData(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m = m.account(t, outbox.Entity{Where: "balance >= 0", DeleteData: func(_ context.Context, _ *outbox.Tx, rows []outbox.Instance) (map[string]any, error) {
			return map[string]any{rows[0].Key: map[string]int{"rows": len(rows)}}, nil
		}})
		m.save(t, `INSERT INTO accounts (id, name) VALUES (1, 'a')`, 1)
		m.save(t, `UPDATE accounts SET balance = -1`, 1)
		if e := m.events(t)[1]; e.Signal != event.Delete || !strings.HasPrefix(string(e.Data), `{"id":1,"custom":{"rows":1},"cqrs_revision":2`) {
			t.Errorf("a row that leaves is sent as %s %s", e.Signal, e.Data)
		}
	})
}

func TestWhereIsChecked(t *testing.T) {
	t.Parallel()
	for where, want := range map[string]string{
		`balance >= 0; DROP TABLE accounts`: `';' has no place`,
		`1 = 1) OR (1 = 1`:                  "closed that was not opened",
		`(balance > 0`:                      "not closed",
		`balance > 0 -- `:                   "a comment",
		`balance > 0 /* x */`:               "a comment",
		`name = 'x`:                         "not closed",
		`name = 'x\'' OR 1 = 1`:             `a \ within quotes`,
		`name = $$x$$`:                      `'$' has no place`,
		"name = 'x' AND \x00":               "has no place",
	} {
		_, err := outbox.New(outbox.Config{Dialect: outbox.Postgres, Entities: []outbox.Entity{{ID: "account", Table: "accounts", Where: where}}})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "entity account: Where") {
			t.Errorf("Where %q: %v, want it to say %q", where, err, want)
		}
	}
	onEach(t, func(t *testing.T, m master) {
		for _, where := range []string{`blance >= 0`, `balance >=`, `balance = $1`} {
			ob, err := outbox.New(outbox.Config{Dialect: m.dialect, Entities: []outbox.Entity{{ID: "account", Table: "accounts", Where: where}}})
			if err == nil {
				err = ob.Check(t.Context(), m.DB)
			}
			if err == nil || !strings.Contains(err.Error(), "entity account: Where") {
				t.Errorf("Where %q: %v, want a fault", where, err)
			}
		}
	})
}

// A row that replicas know from a SYNC alone is not one that was never sent.
func TestRowsThatLeaveAfterASync(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		both(t, m, outbox.Entity{Where: "balance >= 0"}, func(t *testing.T, m master) {
			m.exec(t, `INSERT INTO accounts (id, name, balance) VALUES (1, 'in', 5), (2, 'out', -5)`) // before there was Lockstep
			for range 2 {
				if _, err := m.ob.Sync(t.Context(), m.DB, "account", outbox.All, ""); err != nil {
					t.Fatal(err)
				}
			}
			m.exec(t, `DELETE FROM outbox`)
			m.save(t, `UPDATE accounts SET balance = -1`, 1, 2)
			m.save(t, `UPDATE accounts SET balance = -2`, 1, 2)
			m.save(t, `UPDATE accounts SET balance = 2`, 1, 2)
			m.wantSent(t, sent{"account", "1", event.Delete, 1, nil}, sent{"account", "1", event.Save, 3, "in"}, sent{"account", "2", event.Save, 3, "out"})
		})
	})
}
