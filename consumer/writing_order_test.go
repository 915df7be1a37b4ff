package consumer

import (
	"fmt"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
)

// TestRowsOfOneMadeAnew: where the database deletes the rows that refer to a deleted
// one, those that refer to the row made anew in the same batch stay.
func TestRowsOfOneMadeAnew(t *testing.T) {
	t.Parallel()
	event := func(signal, entity string, id, revision int, field string) *message.Message {
		return lockstep(envelope(signal, entity, fmt.Sprintf(`{"id":%d,%s%s}`, id, field, versionJSON(int64(revision), at(revision)))))
	}
	const version = "cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL"
	eachDialect(t, func(t *testing.T, d Dialect) {
		for name, keyType := range map[string]string{"plain keys": "bigint", "keys of many spellings": "decimal(10,2)"} {
			r := newRig(t, d, map[string]Table{"leaf": {Name: "leaf"}, "branch": {Name: "branch"}, "tree": {Name: "tree"}},
				`CREATE TABLE tree (id `+keyType+` PRIMARY KEY, above `+keyType+`, `+version+`, FOREIGN KEY (above) REFERENCES tree (id) ON DELETE CASCADE)`,
				`CREATE TABLE branch (id bigint PRIMARY KEY, tree `+keyType+`, `+version+`, FOREIGN KEY (tree) REFERENCES tree (id) ON DELETE CASCADE)`,
				`CREATE TABLE leaf (id bigint PRIMARY KEY, branch bigint, `+version+`, FOREIGN KEY (branch) REFERENCES branch (id) ON DELETE CASCADE)`)
			r.batch(t, event("SAVE", "tree", 1, 1, `"above":null,`), event("SAVE", "branch", 5, 1, `"tree":1,`), event("SAVE", "leaf", 9, 1, `"branch":5,`))
			res := r.batch(t, event("DELETE", "tree", 1, 2, ""), event("SAVE", "tree", 1, 3, `"above":null,`), event("SAVE", "tree", 2, 1, `"above":1,`),
				event("SAVE", "branch", 5, 2, `"tree":1,`), event("SAVE", "branch", 6, 1, `"tree":1,`),
				event("SAVE", "leaf", 7, 1, `"branch":5,`), event("SAVE", "leaf", 8, 1, `"branch":6,`))
			applied := res.applied
			for n := 0; n < 3 && len(res.failures) > 0; n++ { // PostgreSQL may leave some to another attempt
				var failed []*message.Message
				for _, f := range res.failures {
					failed = append(failed, f.in.msg.Copy())
				}
				res = r.batch(t, failed...)
				applied += res.applied
			}
			if applied != 7 {
				t.Errorf("%s: %d applied, want 7", name, applied)
			}
			want := []string{"leaf=7 branch=5 tree=1", "leaf=8 branch=6 tree=1"}
			have := dump(t, r.db, "SELECT l.id AS leaf, b.id AS branch, "+map[Dialect]string{MySQL: "CAST(b.tree AS SIGNED)", Postgres: "CAST(b.tree AS bigint)", SQLite: "b.tree"}[d]+
				" AS tree FROM leaf l JOIN branch b ON b.id = l.branch")
			if diff := cmp.Diff(want, have); diff != "" {
				t.Errorf("%s: leaves (-want +have):\n%s", name, diff)
			}
			if have := dump(t, r.db, "SELECT count(*) AS n FROM tree"); have[0] != "n=2" {
				t.Errorf("%s: %s trees, want 2", name, have[0])
			}
		}
	})
}
