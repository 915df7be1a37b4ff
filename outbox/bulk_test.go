package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"

	"github.com/lockstep-go/lockstep/outbox"
)

// numbers is a table n of the numbers i from 1 to n.
func (m master) numbers(n int) string {
	if m.dialect == outbox.MySQL { // MariaDB ends a recursion after 1000 rounds
		return fmt.Sprintf(`(SELECT seq AS i FROM seq_1_to_%d) n`, n)
	}
	return fmt.Sprintf(`(WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) SELECT i FROM n) n`, n)
}

// Thousands of keys of two entities: parents were marked first and travel first,
// each entity in the order of its marks, whatever makes its events.
func TestBulkOfTwoEntities(t *testing.T) {
	t.Parallel()
	const n = 3000
	onEach(t, func(t *testing.T, m master) {
		m.exec(t, `CREATE TABLE authors (id INTEGER PRIMARY KEY, name TEXT)`)
		m.addVersions(t, "authors")
		m = m.with(t, outbox.Config{Entities: []outbox.Entity{
			{ID: "account", Table: "accounts"}, {ID: "author", Table: "authors", Tracked: []string{"name"}},
		}})
		saved := func(ctx context.Context, tx *outbox.Tx, entity, query string) error {
			rows, err := tx.QueryContext(ctx, query) //nolint:rowserrcheck // SavedRows does it
			if err != nil {
				return err
			}
			return tx.SavedRows(entity, rows)
		}
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
			return errors.Join(
				saved(ctx, tx, "author", `INSERT INTO authors (id, name) SELECT i, 'x' FROM `+m.numbers(n)+` RETURNING id`),
				saved(ctx, tx, "account", `INSERT INTO accounts (id, name) SELECT i, 'x' FROM `+m.numbers(n)+` RETURNING id`),
				tx.Saved("author", 1, 2, 3)) // marked already
		})
		all := m.rows(t)
		if len(all) != 2*n {
			t.Fatalf("%d events, want %d", len(all), 2*n)
		}
		for i, row := range all {
			topic := map[bool]string{true: "author", false: "account"}[i < n]
			if want := strconv.Itoa(i%n + 1); row.topic != topic || row.key != want {
				t.Fatalf("event %d is of %s/%s, want %s/%s", i, row.topic, row.key, topic, want)
			}
		}
		m.exec(t, `DELETE FROM outbox`)
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
			keys := make([]any, n)
			for i := range keys {
				keys[i] = i + 1
			}
			const update, even = `UPDATE authors SET name = 'y' WHERE id % 2 = 0`, `SELECT id FROM authors WHERE id % 2 = 0`
			if m.dialect == outbox.MySQL { // has no such RETURNING
				return errors.Join(tx.Track(ctx, "author", keys...), exec(ctx, tx, update), saved(ctx, tx, "author", even))
			}
			return errors.Join(tx.Track(ctx, "author", keys...), saved(ctx, tx, "author", update+` RETURNING id`))
		})
		events := m.events(t)
		if len(events) != n/2 || slices.ContainsFunc(m.rows(t), func(r outboxRow) bool { return r.topic != "author" }) {
			t.Fatalf("%d events, want %d of authors", len(events), n/2)
		}
		for _, e := range events {
			if string(e.Previous) != `{"name":"x"}` {
				t.Fatalf("previous data %s of %s", e.Previous, e.Data)
			}
		}
	})
}

func TestSavedRowsTakesTheKeyAlone(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m = m.shelves(t, outbox.Entity{})
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
			for query, want := range map[string]error{
				`SELECT 'eu', 7, 1`: outbox.ErrKey, `SELECT 'eu', NULL`: outbox.ErrKey,
				`INSERT INTO shelves (region, number) VALUES ('eu', 8), ('eu', 7) RETURNING region, number`: nil,
			} {
				rows, err := tx.QueryContext(ctx, query) //nolint:rowserrcheck // SavedRows does it
				if err != nil {
					return err
				}
				if err := tx.SavedRows("shelf", rows); !errors.Is(err, want) {
					t.Errorf("SavedRows of %s: %v, want %v", query, err, want)
				}
			}
			return nil
		})
		if all := m.rows(t); len(all) != 2 || all[0].key != `["eu","8"]` || all[1].key != `["eu","7"]` {
			t.Errorf("events %v, want those of the rows that were returned, in their order", all)
		}
	})
}
