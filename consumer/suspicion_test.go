package consumer

import (
	"fmt"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
)

// TestSuspicions: after violations of a constraint, messages are asked about it
// before they are tried. That must not fail any that would pass: not one whose
// parent comes in the same batch, nor one that a relaxed constraint lets in.
func TestSuspicions(t *testing.T) {
	t.Parallel()
	r := newRig(t, Postgres, map[string]Table{"author": {Name: "author_ref"}, "book": {Name: "book_ref"}},
		`CREATE TABLE author_ref (id bigint PRIMARY KEY, cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL)`,
		`CREATE TABLE book_ref (id bigint PRIMARY KEY, author bigint REFERENCES author_ref (id), pages integer CONSTRAINT some_pages CHECK (pages > 0), note text,
			cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL)`)
	author := func(id int) *message.Message {
		return lockstep(envelope("SAVE", "author", fmt.Sprintf(`{"id":%d,%s}`, id, versionJSON(1, at(1)))))
	}
	book := func(id, author int, pages string) *message.Message {
		return lockstep(envelope("SAVE", "book", fmt.Sprintf(`{"id":%d,"author":%d,"pages":%s,"note":"x",%s}`, id, author, pages, versionJSON(1, at(1)))))
	}
	engine := r.engine.(*postgres)
	steps := []struct {
		name     string
		before   string
		messages []*message.Message
		failed   []string
		suspects int
	}{
		{"no parent, no pages", "", []*message.Message{book(1, 1, "10"), book(2, 2, "10"), author(2), book(3, 2, "0")}, []string{"1", "3"}, 2},
		{"the parent comes with it", "", []*message.Message{book(4, 4, "10"), author(4), book(1, 1, "10"), author(1), book(5, 5, "0")}, []string{"5"}, 2},
		{"a value that cannot be asked about", "", []*message.Message{book(6, 4, `"many"`), book(7, 4, "-1"), book(8, 4, "8")}, []string{"6", "7"}, 2},
		{"relaxed", "ALTER TABLE book_ref DROP CONSTRAINT some_pages, ADD CONSTRAINT some_pages CHECK (pages > -5)", []*message.Message{book(3, 2, "0"), book(9, 4, "-7")}, []string{"9"}, 2},
		{"gone", "ALTER TABLE book_ref DROP CONSTRAINT some_pages", []*message.Message{book(9, 4, "-7")}, nil, 2},
	}
	for _, step := range steps {
		if step.before != "" {
			mustExec(t, r.db, step.before)
		}
		var failed []string
		for _, f := range r.batch(t, step.messages...).failures {
			failed = append(failed, f.in.key)
		}
		if diff := cmp.Diff(asSet(step.failed), asSet(failed)); diff != "" {
			t.Errorf("%s: failed (-want +have):\n%s", step.name, diff)
		}
		if have := len(engine.suspicions); have != step.suspects {
			t.Errorf("%s: %d constraints under suspicion, want %d", step.name, have, step.suspects)
		}
	}
	for i := range suspectedFor {
		r.batch(t, author(100+i))
	}
	if have := len(engine.suspicions); have != 0 {
		t.Errorf("%d constraints under suspicion after %d batches that fit, want none", have, suspectedFor)
	}
	want := []string{"id=1", "id=2", "id=3", "id=4", "id=8", "id=9"}
	if diff := cmp.Diff(want, dump(t, r.db, "SELECT id FROM book_ref")); diff != "" {
		t.Errorf("books (-want +have):\n%s", diff)
	}
}

func asSet(list []string) map[string]bool {
	set := map[string]bool{}
	for _, one := range list {
		set[one] = true
	}
	return set
}
