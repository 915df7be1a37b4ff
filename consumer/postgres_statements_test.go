package consumer

import (
	"fmt"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
)

// TestOneStatementATable: on PostgreSQL a batch is one statement a table for each kind
// of its messages, however many there are, and one before them that takes the locks.
// Only what does not follow the stored revision takes a second one.
func TestOneStatementATable(t *testing.T) {
	t.Parallel()
	const version = "cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL"
	ids := []string{"region", "shop", "till"}
	r, n := countedRig(t, Postgres, ids,
		"CREATE TABLE region_ref (id bigint PRIMARY KEY, above bigint, name text UNIQUE, "+version+")",
		"CREATE TABLE shop_ref (id bigint PRIMARY KEY, above bigint REFERENCES region_ref (id), name text UNIQUE, "+version+")",
		"CREATE TABLE till_ref (id bigint PRIMARY KEY, above bigint REFERENCES shop_ref (id), name text UNIQUE, "+version+")")
	event := func(signal, entity string, id, revision int) *message.Message {
		above := fmt.Sprint(id)
		if entity == ids[0] {
			above = "null"
		}
		return lockstep(envelope(signal, entity, fmt.Sprintf(`{"id":%d,"above":%s,"name":"%d of %d",%s}`, id, above, id, revision, versionJSON(int64(revision), at(revision)))))
	}
	first := 0 // of the keys that are new
	for _, many := range []int{1, 300} {
		made := func(entity string, i int) *message.Message { return event("SAVE", entity, first+i, 1) }
		for _, kind := range []struct {
			name       string
			messages   func(entity string, i int) []*message.Message
			statements int64 // for each table
		}{
			{"new rows", func(entity string, i int) []*message.Message { return []*message.Message{made(entity, i)} }, 1},
			{"changed rows", func(entity string, i int) []*message.Message {
				return []*message.Message{event("SAVE", entity, first+i, 2)}
			}, 1},
			{"changed rows, each several times", func(entity string, i int) []*message.Message {
				return []*message.Message{event("SAVE", entity, first+i, 3), event("SAVE", entity, first+i, 4), event("SAVE", entity, first+i, 5)}
			}, 1},
			{"changed rows, after a gap", func(entity string, i int) []*message.Message {
				return []*message.Message{event("SAVE", entity, first+i, 7)}
			}, 2},
			{"repeated", func(entity string, i int) []*message.Message {
				return []*message.Message{event("SYNC", entity, first+i, 7)}
			}, 1},
			{"changed, new and never seen deleted rows", func(entity string, i int) []*message.Message {
				return []*message.Message{event("SAVE", entity, first+i, 8), event("SAVE", entity, first+1000+i, 1), event("DELETE", entity, first+2000+i, 2)}
			}, 3},
			{"deleted rows", func(entity string, i int) []*message.Message {
				return []*message.Message{event("DELETE", entity, first+i, 9)}
			}, 1},
		} {
			var messages []*message.Message
			for i := range many {
				for _, id := range ids {
					messages = append(messages, kind.messages(id, i)...)
				}
			}
			n.Store(0)
			res := r.batch(t, messages...)
			if len(res.failures) > 0 || res.isolated || res.stale+res.duplicate > 0 {
				t.Errorf("%s: have %+v, want all applied at once", kind.name, res)
			}
			want := 1 + int64(len(ids))*kind.statements
			if have := n.Load(); have != want {
				t.Errorf("%s, %d a table: %d statements, want %d", kind.name, many, have, want)
			}
		}
		first += 10_000
	}
}
