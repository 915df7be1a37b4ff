package consumer

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
)

// accused are batches with a message that fits and looks as if it violated what another
// one violates. Each is made of a revision, so that it can be sent again and again.
var accused = []struct {
	name     string
	postgres bool // only there
	ddl      []string
	before   []string // rows, each of revision 1
	batch    []string
	failed   []string
	want     []string
}{
	{
		name:   "rows that refer to themselves",
		ddl:    []string{"FOREIGN KEY (parent) REFERENCES thing_ref (id)"},
		batch:  []string{`"id":1,"parent":1`, `"id":2,"parent":99`, `"id":3,"parent":3`},
		failed: []string{"2"},
		want:   []string{"id=1 parent=1 a=null b=null", "id=3 parent=3 a=null b=null"},
	},
	{
		name:     "rows that exchange values at the commit",
		postgres: true,
		ddl:      []string{"UNIQUE (a) DEFERRABLE INITIALLY DEFERRED"},
		before:   []string{`"id":1,"a":"one"`, `"id":2,"a":"two"`, `"id":3,"a":"three"`, `"id":4,"a":"four"`},
		batch:    []string{`"id":1,"a":"two"`, `"id":4,"a":"three"`, `"id":2,"a":"one"`},
		failed:   []string{"4"},
		want: []string{
			"id=1 parent=null a=two b=null", "id=2 parent=null a=one b=null",
			"id=3 parent=null a=three b=null", "id=4 parent=null a=four b=null",
		},
	},
	{
		name:   "a column that stays as it is",
		ddl:    []string{"CHECK (a IS NOT NULL OR b IS NOT NULL)"},
		before: []string{`"id":1,"a":"one","b":"one"`},
		batch:  []string{`"id":1,"a":null`, `"id":2,"a":null,"b":null`},
		failed: []string{"2"},
		want:   []string{"id=1 parent=null a=null b=one"},
	},
	{
		name:     "a row that a trigger changes",
		postgres: true,
		ddl: []string{
			"UNIQUE (a)",
			`CREATE FUNCTION adjust() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.a := NEW.a || NEW.b; RETURN NEW; END $$`,
			`CREATE TRIGGER adjust BEFORE INSERT OR UPDATE ON thing_ref FOR EACH ROW EXECUTE FUNCTION adjust()`,
		},
		before: []string{`"id":1,"a":"one","b":""`},
		batch:  []string{`"id":2,"a":"one","b":"+"`, `"id":3,"a":"one","b":""`},
		failed: []string{"3"},
		want:   []string{"id=1 parent=null a=one b=", "id=2 parent=null a=one+ b=+"},
	},
}

// TestAccusedBesideCulprits: a message that fits is applied at once, although one of its
// batch violates a constraint which it only seems to violate, and others did before.
func TestAccusedBesideCulprits(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		for _, tc := range accused {
			if tc.postgres && d != Postgres {
				continue
			}
			table := "CREATE TABLE thing_ref (id bigint PRIMARY KEY, parent bigint, a varchar(20), b varchar(20), " +
				"cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL, " + tc.ddl[0] + ")"
			r := newRig(t, d, map[string]Table{"thing": {Name: "thing_ref"}}, append([]string{table}, tc.ddl[1:]...)...)
			for round := range 3 {
				mustExec(t, r.db, "UPDATE thing_ref SET parent = NULL")
				mustExec(t, r.db, "DELETE FROM thing_ref")
				r.batch(t, things(tc.before, 1)...)
				res := r.batch(t, things(tc.batch, 2)...)
				var failed []string
				for _, f := range res.failures {
					failed = append(failed, f.in.key)
				}
				slices.Sort(failed)
				if diff := cmp.Diff(tc.failed, failed); diff != "" {
					t.Errorf("%s, round %d: failed (-want +have):\n%s", tc.name, round, diff)
				}
				if diff := cmp.Diff(tc.want, dump(t, r.db, "SELECT id, parent, a, b FROM thing_ref")); diff != "" {
					t.Errorf("%s, round %d: rows (-want +have):\n%s", tc.name, round, diff)
				}
			}
		}
	})
}

func things(bodies []string, revision int) (messages []*message.Message) {
	for _, body := range bodies {
		if !strings.Contains(body, `"parent"`) {
			body += `,"parent":null`
		}
		messages = append(messages, lockstep(envelope("SAVE", "thing", fmt.Sprintf("{%s,%s}", body, versionJSON(int64(revision), at(revision))))))
	}
	return messages
}

// TestSuspicionEnds: rows of two tables that refer to each other at the commit fit
// together, so when they are tried again they are not kept out by what others violated.
func TestSuspicionEnds(t *testing.T) {
	t.Parallel()
	const version = "other bigint, cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL"
	r := newRig(t, Postgres, map[string]Table{"left": {Name: "left_ref"}, "right": {Name: "right_ref"}},
		"CREATE TABLE left_ref (id bigint PRIMARY KEY, "+version+")",
		"CREATE TABLE right_ref (id bigint PRIMARY KEY, "+version+")",
		"ALTER TABLE left_ref ADD FOREIGN KEY (other) REFERENCES right_ref (id) DEFERRABLE INITIALLY DEFERRED",
		"ALTER TABLE right_ref ADD FOREIGN KEY (other) REFERENCES left_ref (id) DEFERRABLE INITIALLY DEFERRED")
	row := func(entity string, id, other, retries int) *message.Message {
		body := envelope("SAVE", entity, fmt.Sprintf(`{"id":%d,"other":%d,%s}`, id, other, versionJSON(1, at(1))))
		return lockstep(strings.Replace(body, `"retries":0`, fmt.Sprintf(`"retries":%d`, retries), 1))
	}
	r.batch(t, row("left", 9, 99, 0), row("right", 9, 99, 0)) // from now on both are suspected
	r.batch(t, row("left", 1, 2, 0), row("right", 2, 1, 0))
	if res := r.batch(t, row("left", 1, 2, 1), row("right", 2, 1, 1)); len(res.failures) > 0 {
		t.Errorf("have %v, want both applied", res.failures)
	}
}
