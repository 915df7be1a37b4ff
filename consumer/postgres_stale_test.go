package consumer

import (
	"fmt"
	"slices"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
)

// TestStaleThatWouldNotFit: a message that is stale is no failure, whatever constraint
// its row would violate, also where others of the batch or before violate it.
func TestStaleThatWouldNotFit(t *testing.T) {
	t.Parallel()
	child := func(signal string, id, parent, revision int) *message.Message {
		return lockstep(envelope(signal, "child", fmt.Sprintf(`{"id":%d,"parent":%d,%s}`, id, parent, versionJSON(int64(revision), at(revision)))))
	}
	parent := lockstep(envelope("SAVE", "parent", `{"id":1,`+versionJSON(1, at(1))+`}`))
	const version = "cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL"
	eachDialect(t, func(t *testing.T, d Dialect) {
		r := newRig(t, d, map[string]Table{"parent": {Name: "parent"}, "child": {Name: "child"}},
			`CREATE TABLE parent (id bigint PRIMARY KEY, `+version+`)`,
			`CREATE TABLE child (id bigint PRIMARY KEY, parent bigint, `+version+`, FOREIGN KEY (parent) REFERENCES parent (id))`)
		r.batch(t, parent, child("SAVE", 1, 1, 5), child("SAVE", 2, 1, 5), child("DELETE", 2, 1, 6), child("DELETE", 3, 1, 6))
		for range 2 {
			res := r.batch(t, child("SAVE", 9, 7, 1), child("SAVE", 1, 7, 4), child("SAVE", 1, 7, 5), child("SYNC", 1, 7, 4),
				child("SAVE", 2, 7, 6), child("SYNC", 3, 7, 6), child("SAVE", 8, 7, 1), child("SYNC", 1, 7, 5))
			var failed []string
			for _, f := range res.failures {
				failed = append(failed, fmt.Sprintf("%s/%d", f.in.key, f.in.Revision))
			}
			if diff := cmp.Diff([]string{"1/5", "8/1", "9/1"}, slices.Sorted(slices.Values(failed))); diff != "" {
				t.Errorf("failures (-want +have):\n%s", diff)
			}
		}
		if diff := cmp.Diff([]string{"id=1 parent=1"}, dump(t, r.db, "SELECT id, parent FROM child")); diff != "" {
			t.Errorf("rows (-want +have):\n%s", diff)
		}
	})
}
