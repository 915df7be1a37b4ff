package consumer

import (
	"fmt"
	"slices"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
)

// TestConstraints: a violated constraint of any kind fails the messages that
// violate it and no other, also when it is checked only at the commit.
func TestConstraints(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		whens, caseless := []string{"", " DEFERRABLE INITIALLY DEFERRED"}, `CREATE UNIQUE INDEX one_kind ON book_ref (lower(kind))`
		if d == MySQL { // which checks at once, and compares without case by itself
			whens, caseless = whens[:1], `CREATE UNIQUE INDEX one_kind ON book_ref (kind(20))`
		}
		for _, when := range whens {
			db := openDB(t, d,
				`CREATE TABLE author_ref (id bigint PRIMARY KEY, name text, cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL)`,
				`CREATE TABLE book_ref (id bigint PRIMARY KEY, author bigint REFERENCES author_ref (id)`+when+`, title text UNIQUE, pages integer CHECK (pages > 0), kind text,
					cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL)`,
				caseless)
			c, err := New(db, newTestBroker(), Config{Queue: "replica"})
			if err != nil {
				t.Fatal(err)
			}
			for _, id := range []string{"author", "book"} {
				if err := c.Table(id, Table{Name: id + "_ref"}); err != nil {
					t.Fatal(err)
				}
			}
			replicas, faults, err := c.load(t.Context())
			if faults != nil || err != nil {
				t.Fatal(faults, err)
			}
			r := &rig{Consumer: c, replicas: replicas, engine: c.newEngine()}
			author := func(id int) *message.Message {
				return lockstep(envelope("SAVE", "author", fmt.Sprintf(`{"id":%d,"name":"x",%s}`, id, versionJSON(1, at(1)))))
			}
			book := func(id, author, pages int, title, kind string) *message.Message {
				return lockstep(envelope("SAVE", "book", fmt.Sprintf(`{"id":%d,"author":%d,"pages":%d,"title":%q,"kind":%q,%s}`, id, author, pages, title, kind, versionJSON(1, at(1)))))
			}
			messages := []*message.Message{
				book(1, 1, 10, "a", "a"), // its author comes later
				book(2, 9, 10, "b", "b"), // no such author
				author(1),
				book(3, 1, 0, "c", "c"),  // no pages
				book(4, 1, 10, "a", "d"), // the first one's title
				book(5, 1, 10, "e", "A"), // the first one's kind
				book(6, 1, 10, "f", "f"),
				author(2),
				book(7, 2, 10, "g", "g"),
				book(8, 8, -1, "h", "h"), // neither author nor pages
			}
			res := r.batch(t, messages...)
			var bad []string
			for _, f := range res.failures {
				bad = append(bad, f.in.key)
			}
			slices.Sort(bad)
			wantBad, wantGood := []string{"2", "3", "4", "5", "8"}, []string{"id=1", "id=6", "id=7"}
			if diff := cmp.Diff(wantBad, bad); diff != "" {
				t.Errorf("%q: bad (-want +have):\n%s", when, diff)
			}
			if diff := cmp.Diff(wantGood, dump(t, db, "SELECT id FROM book_ref")); diff != "" {
				t.Errorf("%q: books (-want +have):\n%s", when, diff)
			}
			if n := len(dump(t, db, "SELECT id FROM author_ref")); n != 2 {
				t.Errorf("%q: have %d authors, want 2", when, n)
			}
			if err := r.engine.close(); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestOneConnection: a pool of one connection is enough.
func TestOneConnection(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		r := accountRig(t, d)
		r.db.SetMaxOpenConns(1)
		mustExec(t, r.db, "INSERT INTO account_ref (id, title, cqrs_revision, cqrs_updated) VALUES (7, 'x', 1, '2026-01-01')")
		mustExec(t, r.db, "CREATE UNIQUE INDEX titles ON account_ref ("+map[bool]string{true: "title(20)", false: "title"}[d == MySQL]+")")
		res := r.batch(t, save(1, 1, "one"), save(2, 1, "x"), remove(3, 1), save(1, 2, "uno"),
			lockstep(envelope("SYNC", "account", `{"id":4,"name":"y",`+versionJSON(1, at(1))+`}`)))
		if len(res.failures) != 1 || res.failures[0].in.key != "2" {
			t.Errorf("have %v, want account/2 to fail", res.failures)
		}
	})
}
