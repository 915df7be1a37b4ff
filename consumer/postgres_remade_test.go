package consumer

import (
	"fmt"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
)

// TestRowsOfOneMadeAnewUnderAccusation: where a row is made anew with a name that another
// one still has, it must not be set aside: its deletion would go first, and take along the
// rows that refer to the new one. That holds for the constraint that the batch fails with,
// and for one that was violated before and is asked about beforehand.
func TestRowsOfOneMadeAnewUnderAccusation(t *testing.T) {
	t.Parallel()
	event := func(signal, entity, data string, revision int) *message.Message {
		return lockstep(envelope(signal, entity, "{"+data+","+versionJSON(int64(revision), at(revision))+"}"))
	}
	const version = "cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL"
	for _, suspected := range []bool{false, true} {
		t.Run(fmt.Sprintf("suspected before: %t", suspected), func(t *testing.T) {
			t.Parallel()
			r := rigInOrder(t, openDB(t, Postgres,
				`CREATE TABLE tree (id bigint PRIMARY KEY, name varchar(9) UNIQUE, `+version+`)`,
				`CREATE TABLE leaf (id bigint PRIMARY KEY, tree bigint, `+version+`, FOREIGN KEY (tree) REFERENCES tree (id) ON DELETE CASCADE)`), "tree", "leaf")
			r.batch(t, event("SAVE", "tree", `"id":1,"name":"a"`, 1), event("SAVE", "tree", `"id":2,"name":"b"`, 1))
			if suspected {
				if res := r.batch(t, event("SAVE", "tree", `"id":9,"name":"b"`, 1)); len(res.failures) != 1 {
					t.Fatalf("have %+v, want a failure", res)
				}
			}
			messages := []*message.Message{
				event("DELETE", "tree", `"id":1`, 2), event("SAVE", "tree", `"id":1,"name":"b"`, 3),
				event("SAVE", "tree", `"id":2,"name":"c"`, 5), event("SAVE", "leaf", `"id":5,"tree":1`, 1),
			}
			for n := 0; n < 3 && len(messages) > 0; n++ {
				res := r.batch(t, messages...)
				messages = nil
				for _, f := range res.failures {
					messages = append(messages, f.in.msg.Copy())
				}
			}
			if len(messages) > 0 {
				t.Errorf("%d messages never fit, the first is %s", len(messages), messages[0].Payload)
			}
			have := dump(t, r.db, "SELECT t.id AS tree, t.name, l.id AS leaf FROM tree t LEFT JOIN leaf l ON l.tree = t.id")
			if diff := cmp.Diff([]string{"tree=1 name=b leaf=5", "tree=2 name=c leaf=null"}, have); diff != "" {
				t.Errorf("rows (-want +have):\n%s", diff)
			}
		})
	}
}
