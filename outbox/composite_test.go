package outbox_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/outbox"
)

// shelves is a master with an entity whose key has two columns.
func (m master) shelves(t *testing.T, e outbox.Entity) master {
	t.Helper()
	m.exec(t, `CREATE TABLE shelves (region TEXT, number INTEGER, name TEXT, PRIMARY KEY (region, number))`)
	m.addVersions(t, "shelves")
	e.ID, e.Table, e.Keys = "shelf", "shelves", []string{"region", "number"}
	return m.with(t, outbox.Config{Entities: []outbox.Entity{e}})
}

func TestCompositeKeys(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m = m.shelves(t, outbox.Entity{Tracked: []string{"name"}})
		key := func(region string, number int) outbox.Composite { return outbox.Composite{region, number} }
		odd := map[bool]string{true: `a"\\é`, false: `a"\é`}[m.dialect == outbox.MySQL]
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
			return errors.Join(exec(ctx, tx, `INSERT INTO shelves (region, number, name) VALUES ('eu', 7, 'a'), ('eu', 8, 'b'), ('`+odd+`', 7, 'c')`),
				tx.Saved("shelf", key(`a"\é`, 7), key("eu", 7)), tx.Saved("shelf", `[ "eu", "7" ]`))
		})
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
			return errors.Join(tx.Track(ctx, "shelf", key("eu", 7)), exec(ctx, tx, `UPDATE shelves SET name = 'd'`), tx.Saved("shelf", key("eu", 7)))
		})
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
			return errors.Join(tx.Delete(ctx, "shelf", key(`a"\é`, 7), key("eu", 7)),
				exec(ctx, tx, `INSERT INTO shelves (region, number, name) VALUES ('eu', 7, 'new')`), tx.Saved("shelf", key("eu", 7)))
		})
		quoted := `["a\"\\é","7"]`
		m.wantSent(t,
			sent{"shelf", quoted, event.Save, 1, "c"}, sent{"shelf", `["eu","7"]`, event.Save, 1, "a"},
			sent{"shelf", `["eu","7"]`, event.Save, 2, "d"},
			sent{"shelf", quoted, event.Delete, 2, nil}, sent{"shelf", `["eu","7"]`, event.Delete, 3, nil},
			sent{"shelf", `["eu","7"]`, event.Save, 4, "new"})
		e := m.events(t)[4]
		if have, want := data(t, e), `{"id":"[\"eu\",\"7\"]","region":"eu","number":7`; have != want || string(e.Key) != `"[\"eu\",\"7\"]"` {
			t.Errorf("a DELETE carries %s of %s, want %s", have, e.Key, want)
		}
		if have, want := data(t, m.events(t)[2]), `{"region":"eu","number":7,"name":"d"`; have != want {
			t.Errorf("a SAVE carries %s, want %s", have, want)
		}
		if have := string(m.events(t)[2].Previous); have != `{"name":"a"}` {
			t.Errorf("previous data %s", have)
		}
	})
}

// Rows, versions and SYNCs page by the whole key.
func TestCompositeKeysInPages(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m = m.shelves(t, outbox.Entity{})
		m.exec(t, `INSERT INTO shelves (region, number) VALUES ('b', 1), ('a', 10), ('a', 9), ('b', 0), ('a', 2)`)
		if _, err := m.ob.Sync(t.Context(), m.DB, "shelf", outbox.All, "", outbox.SyncChunk(2)); err != nil {
			t.Fatal(err)
		}
		if p, err := m.ob.Sync(t.Context(), m.DB, "shelf", outbox.All, "", outbox.SyncFrom("a")); !errors.Is(err, outbox.ErrKey) || p.Rows != 0 {
			t.Errorf("from half a key: %d rows, %v; want ErrKey", p.Rows, err)
		}
		want := []string{`["a","2"]`, `["a","9"]`, `["a","10"]`, `["b","0"]`, `["b","1"]`}
		var synced, versions, rows []string
		for _, row := range m.rows(t) {
			synced = append(synced, row.key)
		}
		for v, err := range m.ob.Versions(t.Context(), m.DB, "shelf", outbox.All, `["a","2"]`) {
			if err != nil {
				t.Fatal(err)
			}
			versions = append(versions, v.Key)
		}
		for r, err := range m.ob.Rows(t.Context(), m.DB, "shelf", outbox.All, "") {
			if err != nil {
				t.Fatal(err)
			}
			rows = append(rows, r.Key)
		}
		for what, diff := range map[string]string{"SYNC": cmp.Diff(want, synced), "Versions": cmp.Diff(want[1:], versions), "Rows": cmp.Diff(want, rows)} {
			if diff != "" {
				t.Errorf("%s (-want +have):\n%s", what, diff)
			}
		}
	})
}

func TestCompositeKeyFaults(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m = m.shelves(t, outbox.Entity{})
		m.exec(t, `CREATE UNIQUE INDEX by_name ON shelves (region, number, name)`)
		_, err := outbox.New(outbox.Config{Dialect: m.dialect, Entities: []outbox.Entity{
			{ID: "a", Table: "shelves", Key: "region", Keys: []string{"region", "number"}},
			{ID: "b", Table: "shelves", Keys: []string{"region", "region"}},
			{ID: "c", Table: "shelves", Keys: []string{"region", "number"}, Fields: []string{"region"}},
		}})
		for _, part := range []string{"entity a: Key and Keys are both set", `entity b: field "region" is named twice in Keys`, `entity c: key "number" is not in Fields`} {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%v, want it to say %s", err, part)
			}
		}
		ob, err := outbox.New(outbox.Config{Dialect: m.dialect, Entities: []outbox.Entity{
			{ID: "a", Table: "shelves", Keys: []string{"region", "name"}},
			{ID: "b", Table: "shelves", Keys: []string{"number", "shelf"}},
			{ID: "c", Table: "shelves", Keys: []string{"number", "region"}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		err = ob.Check(t.Context(), m.DB)
		for _, part := range []string{"entity a: table shelves may hold several rows with one region, name", `entity b: table shelves has no column "shelf"`} {
			if err == nil || !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "entity c") {
				t.Errorf("%v, want it to say %s", err, part)
			}
		}
		err = m.ob.InTx(t.Context(), m.DB, func(_ context.Context, tx *outbox.Tx) error {
			for _, key := range []any{"eu", []any{"eu", 7}, outbox.Composite{"eu"}, outbox.Composite{"eu", nil}, outbox.Composite{"eu", 1, 2}, `["eu"]`, `["eu",7]`, nil} {
				if err := tx.Saved("shelf", key); !errors.Is(err, outbox.ErrKey) {
					t.Errorf("Saved(%#v) = %v, want ErrKey", key, err)
				}
			}
			if err := tx.Saved("shelf", outbox.Composite{"eu"}); !strings.HasSuffix(err.Error(), "it has 1 column, and the entity's key 2") {
				t.Errorf("a column too few: %v", err)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		err = m.ob.InTx(t.Context(), m.DB, func(_ context.Context, tx *outbox.Tx) error {
			return tx.Saved("shelf", outbox.Composite{"eu", 404})
		})
		if missing := (*outbox.NotFoundError)(nil); !errors.As(err, &missing) || missing.Keys[0] != `["eu","404"]` {
			t.Errorf("a missing key: %v", err)
		}
	})
}
