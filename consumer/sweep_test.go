package consumer

import (
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
)

// TestRowThatLeavesADeletedOne: where the database deletes rows with those they refer to, a
// row that leaves another before its deletion stays, with those that refer to it, also when
// it is set aside at first because it takes a name that is still another row's.
func TestRowThatLeavesADeletedOne(t *testing.T) {
	t.Parallel()
	event := func(signal, entity, data string, revision int) *message.Message {
		return lockstep(envelope(signal, entity, "{"+data+","+versionJSON(int64(revision), at(revision))+"}"))
	}
	const version = "cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL"
	eachDialect(t, func(t *testing.T, d Dialect) {
		r := rigInOrder(t, openDB(t, d,
			`CREATE TABLE tree (id bigint PRIMARY KEY, above bigint, name varchar(9) UNIQUE, `+version+`, FOREIGN KEY (above) REFERENCES tree (id) ON DELETE CASCADE)`,
			`CREATE TABLE leaf (id bigint PRIMARY KEY, tree bigint, `+version+`, FOREIGN KEY (tree) REFERENCES tree (id) ON DELETE CASCADE)`), "tree", "leaf")
		taken := map[string][]*message.Message{
			"the deleted row's name": {
				event("SAVE", "tree", `"id":6,"above":null,"name":"x"`, 2), event("DELETE", "tree", `"id":3`, 2),
				event("SAVE", "tree", `"id":6,"above":null,"name":"old"`, 3), event("SAVE", "leaf", `"id":1,"tree":6`, 1),
			},
			"the next row's name": {
				event("SAVE", "tree", `"id":9,"above":null,"name":"z"`, 2), event("SAVE", "tree", `"id":6,"above":null,"name":"nine"`, 2),
				event("DELETE", "tree", `"id":3`, 2), event("SAVE", "leaf", `"id":1,"tree":6`, 1),
			},
		}
		for _, name := range []string{"the deleted row's name", "the next row's name", "the next row's name"} { // which is known to be violated then second time the constraint is known to be violated
			mustExec(t, r.db, "DELETE FROM tree")
			mustExec(t, r.db, "DELETE FROM replica_tombstones")
			r.batch(t, event("SAVE", "tree", `"id":3,"above":null,"name":"old"`, 1), event("SAVE", "tree", `"id":6,"above":3,"name":"x"`, 1),
				event("SAVE", "tree", `"id":9,"above":null,"name":"nine"`, 1))
			messages := copies(taken[name])
			for n := 0; n < 3 && len(messages) > 0; n++ {
				res := r.batch(t, messages...)
				messages = nil
				for _, f := range res.failures {
					messages = append(messages, f.in.msg.Copy())
				}
			}
			have := dump(t, r.db, "SELECT tree AS leaf_on FROM leaf")
			if diff := cmp.Diff([]string{"leaf_on=6"}, have); diff != "" || len(messages) > 0 {
				t.Errorf("%s: %d left, rows (-want +have):\n%s", name, len(messages), diff)
			}
		}
	})
}
