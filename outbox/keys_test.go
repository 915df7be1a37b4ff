package outbox_test

import (
	"context"
	"errors"
	"strings"
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
			if m.dialect == outbox.MySQL {
				if c.declared += " COLLATE utf8mb4_bin"; strings.HasPrefix(c.declared, "NUMERIC") {
					continue // no key there
				}
			}
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

// Two spellings of one key are one key, whichever way they are marked, tracked or
// deleted.
func TestSpellingsOfAKey(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.exec(t, `INSERT INTO accounts (id, name) VALUES (7, 'x'), (8, 'y')`)
		note := func(context.Context, outbox.Instance) (map[string]any, error) { return nil, nil }
		for what, e := range map[string]outbox.Entity{"direct": {}, "here": {Meta: note}, "tracked": {Tracked: []string{"name"}}} {
			m.exec(t, `DELETE FROM outbox`)
			m := m.account(t, e)
			m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
				return errors.Join(tx.Track(ctx, "account", "07", 8), tx.Saved("account", 8, "007", 7), tx.Saved("account", "+7"))
			})
			if diff := cmp.Diff([]string{"8", "7"}, m.keys(t)); diff != "" {
				t.Errorf("%s: keys (-want +have):\n%s", what, diff)
			}
			err := m.ob.InTx(t.Context(), m.DB, func(ctx context.Context, tx *outbox.Tx) error {
				return errors.Join(tx.Track(ctx, "account", 7, 5), tx.Saved("account", 5, "007", 7))
			})
			if missing := (*outbox.NotFoundError)(nil); !errors.As(err, &missing) || cmp.Diff([]string{"5"}, missing.Keys) != "" {
				t.Errorf("%s: 5 is missing: %v", what, err)
			}
			m.exec(t, `DELETE FROM outbox`)
			m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
				return errors.Join(tx.Track(ctx, "account", "08"), tx.Saved("account", "007", 8), tx.Delete(ctx, "account", "7"),
					exec(ctx, tx, `INSERT INTO accounts (id, name) VALUES (7, 'x')`), tx.Saved("account", 7))
			})
			if diff := cmp.Diff([]string{"7", "8", "7"}, m.keys(t)); diff != "" {
				t.Errorf("%s: keys after a deletion (-want +have):\n%s", what, diff)
			}
		}
	})
}

func (m master) keys(t *testing.T) (keys []string) {
	t.Helper()
	for _, row := range m.rows(t) {
		keys = append(keys, row.key)
	}
	return keys
}

func TestSpellingsOfOtherKeys(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		types := []struct {
			declared, stored string
			asked            []any
		}{
			{"UUID", "1a10c440-0728-58e6-99ee-92dc7dc35e29", []any{"1A10C440072858E699EE92DC7DC35E29", "{1a10c440-0728-58e6-99ee-92dc7dc35e29}"}},
			{"NUMERIC(10,2)", "7.50", []any{"7.5", "7.500", "+7.5"}},
			{"CHAR(3)", "a", []any{"a  ", "a"}},
			{"DATE", "2026-01-02", []any{"2026-01-02", "20260102"}},
		}
		if m.dialect == outbox.MySQL { // the others are no keys there
			types = append(types[:1], types[2])
		}
		if m.dialect == outbox.SQLite {
			types = types[:0]
			types = append(types, struct {
				declared, stored string
				asked            []any
			}{"TEXT COLLATE NOCASE", "abc", []any{"ABC"}})
		}
		note := func(context.Context, outbox.Instance) (map[string]any, error) { return nil, nil }
		for _, c := range types {
			m.exec(t, `DROP TABLE IF EXISTS things`)
			m.exec(t, `CREATE TABLE things (id `+c.declared+` PRIMARY KEY, name TEXT)`)
			m.addVersions(t, "things")
			m.exec(t, `INSERT INTO things (id) VALUES ('`+c.stored+`')`)
			for what, meta := range map[string]func(context.Context, outbox.Instance) (map[string]any, error){"direct": nil, "here": note} {
				m.exec(t, `DELETE FROM outbox`)
				m.ob = m.outbox(t, outbox.Entity{ID: "thing", Table: "things", Meta: meta})
				m.inTx(t, func(_ context.Context, tx *outbox.Tx) error { return tx.Saved("thing", c.asked...) })
				if have := m.keys(t); len(have) != 1 {
					t.Errorf("%s, %s: events of %v, want one", c.declared, what, have)
				}
				err := m.ob.InTx(t.Context(), m.DB, func(_ context.Context, tx *outbox.Tx) error {
					other := map[string]string{"UUID": "00000000-0000-0000-0000-000000000000", "DATE": "2000-01-01"}[c.declared]
					if other == "" {
						other = "404"
					}
					return tx.Saved("thing", append([]any{other}, c.asked...)...)
				})
				if missing := (*outbox.NotFoundError)(nil); !errors.As(err, &missing) || len(missing.Keys) != 1 {
					t.Errorf("%s, %s: one key is missing: %v", c.declared, what, err)
				}
			}
		}
	})
}

// A key's text hangs on nothing that a session may set: its tombstone and the order
// of its events do on it. A DELETE carries the key as a SAVE does.
func TestKeysInOtherSessions(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		if m.dialect != outbox.Postgres {
			return // has no such settings
		}
		m.exec(t, `CREATE TABLE things (at TIMESTAMPTZ PRIMARY KEY, name TEXT)`)
		m.addVersions(t, "things")
		m.ob = m.outbox(t, outbox.Entity{ID: "thing", Table: "things", Key: "at"})
		const insert, key = `INSERT INTO things (at) VALUES ('2026-01-02 03:04:05.5+00')`, "2026-01-02 03:04:05.500000+00:00"
		for _, set := range []string{`SET LOCAL timezone = 'UTC'`, `SET LOCAL timezone = 'Asia/Tokyo'; SET LOCAL datestyle = 'German'`} {
			m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
				return errors.Join(exec(ctx, tx, set), exec(ctx, tx, insert), tx.Saved("thing", key), tx.Flush(ctx), tx.Delete(ctx, "thing", "2026-01-02 03:04:05.5+00"))
			})
		}
		m.exec(t, insert)
		if _, err := m.ob.Sync(t.Context(), m.DB, "thing", outbox.All, ""); err != nil {
			t.Fatal(err)
		}
		m.wantSent(t,
			sent{"thing", key, event.Save, 1, nil}, sent{"thing", key, event.Delete, 2, nil},
			sent{"thing", key, event.Save, 3, nil}, sent{"thing", key, event.Delete, 4, nil}, sent{"thing", key, event.Sync, 0, nil})
		for _, e := range m.events(t) {
			if have := string(e.Key); have != `"`+key+`"` {
				t.Errorf("instance_pk of a %s is %s", e.Signal, have)
			}
			for name, value := range event.Members(e.Data) {
				if n := string(name); (n == "id" || n == "at") && string(value) != `"`+key+`"` {
					t.Errorf("%s of a %s is %s", name, e.Signal, value)
				}
			}
		}
	})
}

// A key that changes is deleted as the old one and saved as the new one.
func TestAKeyThatChanges(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.save(t, `INSERT INTO accounts (id, name) VALUES (1, 'x')`, 1)
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
			return errors.Join(tx.Deleting(ctx, "account", 1), exec(ctx, tx, `UPDATE accounts SET id = 2`), tx.Saved("account", 2))
		})
		m.save(t, `INSERT INTO accounts (id, name) VALUES (1, 'other')`, 1)
		m.wantSent(t, sent{"account", "1", event.Save, 1, "x"}, sent{"account", "1", event.Delete, 2, nil},
			sent{"account", "2", event.Save, 3, "x"}, sent{"account", "1", event.Save, 3, "other"})
	})
}
