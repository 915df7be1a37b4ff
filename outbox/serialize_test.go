package outbox_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/outbox"
)

type book struct {
	Author int64  `json:"-"`
	ID     int64  `json:"id"`
	Title  string `json:"title"`
}

type author struct {
	ID    string `json:"id"`
	Books []book `json:"books"`
	// What Serialize says of the version does not count.
	Revision int `json:"cqrs_revision"`
}

// authors represents authors with their books: one query, however many there are.
func authors(queries *int) func(ctx context.Context, tx *outbox.Tx, rows []outbox.Instance) (map[string]any, error) {
	return func(ctx context.Context, tx *outbox.Tx, rows []outbox.Instance) (map[string]any, error) {
		keys := make([]string, len(rows))
		made := map[string]any{}
		for i, row := range rows {
			keys[i] = row.Key
			made[row.Key] = &author{ID: row.Key, Books: []book{}}
		}
		*queries++
		books, err := tx.QueryContext(ctx, `SELECT author_id, id, title FROM books WHERE author_id IN (`+strings.Join(keys, ", ")+`) ORDER BY id`)
		if err != nil {
			return nil, err
		}
		defer func() { _ = books.Close() }()
		for books.Next() {
			var of string
			var b book
			if err := books.Scan(&of, &b.ID, &b.Title); err != nil {
				return nil, err
			}
			a := made[of].(*author)
			a.Books = append(a.Books, b)
		}
		return made, books.Err()
	}
}

func TestSerializeReadsRelatedRowsOnce(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.exec(t, `CREATE TABLE books (id INTEGER PRIMARY KEY, author_id INTEGER, title TEXT)`)
		var queries int
		m = m.account(t, outbox.Entity{Serialize: authors(&queries)})
		m.save(t, `INSERT INTO accounts (id, name) VALUES (1, 'x'), (2, 'y'), (3, 'z')`, 3, 1, 2)
		if queries != 1 {
			t.Errorf("3 authors took %d queries, want 1", queries)
		}
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
			return errors.Join(exec(ctx, tx, `INSERT INTO books VALUES (10, 1, 'A'), (11, 1, 'B'), (12, 2, '<C>')`), tx.Saved("account", 1, 2))
		})
		var have []string
		for _, e := range m.events(t) {
			have = append(have, data(t, e))
		}
		want := []string{
			`{"id":"3","books":[]`, `{"id":"1","books":[]`, `{"id":"2","books":[]`,
			`{"id":"1","books":[{"id":10,"title":"A"},{"id":11,"title":"B"}]`, `{"id":"2","books":[{"id":12,"title":"<C>"}]`,
		}
		if diff := cmp.Diff(want, have); diff != "" || queries != 2 {
			t.Errorf("%d queries, data (-want +have):\n%s", queries, diff)
		}
		m.exec(t, `DELETE FROM outbox`)
		if _, err := m.ob.Sync(t.Context(), m.DB, "account", outbox.All, ""); err != nil {
			t.Fatal(err)
		}
		if all := m.events(t); len(all) != 3 || queries != 3 || data(t, all[1]) != want[4] {
			t.Errorf("a Sync with %d queries sent %d events, want 3 as Serialize makes them", queries, len(all))
		}
	})
}

func TestSerializeFaults(t *testing.T) {
	t.Parallel()
	cause := errors.New("no books")
	onEach(t, func(t *testing.T, m master) {
		for name, c := range map[string]struct {
			made map[string]any
			err  error
			want []string
		}{
			"its error":        {nil, cause, []string{"outbox: account: Serialize: no books"}},
			"a missing key":    {map[string]any{"1": struct{}{}}, nil, []string{"account/2", "nothing for the key"}},
			"not an object":    {map[string]any{"1": []int{1}, "2": 7}, nil, []string{"account/1", "[]int is not encoded as a JSON object"}},
			"a value":          {map[string]any{"1": map[string]any{}, "2": map[string]any{"a": 1, "share": math.NaN()}}, nil, []string{"account/2", "column share", "cannot carry NaN"}},
			"a type":           {map[string]any{"1": map[string]any{}, "2": map[string]any{"a": 1, "f": func() {}}}, nil, []string{"account/2", "column f"}},
			"a deep NaN":       {map[string]any{"1": struct{ X float64 }{math.Inf(1)}, "2": struct{}{}}, nil, []string{"account/1", "cannot carry +Inf"}},
			"marks of its own": {nil, outbox.ErrFlushing, []string{"may read"}},
		} {
			m := m.account(t, outbox.Entity{Serialize: func(_ context.Context, tx *outbox.Tx, _ []outbox.Instance) (map[string]any, error) {
				if errors.Is(c.err, outbox.ErrFlushing) {
					return nil, tx.Saved("account", 1)
				}
				return c.made, c.err
			}})
			err := m.ob.InTx(t.Context(), m.DB, func(ctx context.Context, tx *outbox.Tx) error {
				return errors.Join(exec(ctx, tx, `INSERT INTO accounts (id, name) VALUES (1, 'x'), (2, 'y')`), tx.Saved("account", 1, 2))
			})
			for _, part := range c.want {
				if err == nil || !strings.Contains(err.Error(), part) || c.err != nil && !errors.Is(err, c.err) {
					t.Errorf("%s: %v, want it to say %q", name, err, part)
				}
			}
			m.wantSent(t)
			m.wantAccounts(t, 0)
		}
	})
}
