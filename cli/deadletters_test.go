package cli_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDeadLettersOfTheOutbox(t *testing.T) {
	t.Parallel()
	s := newSides(t, 0)
	letter := func(id int, topic, key, err, age string) {
		s.exec(s.master, fmt.Sprintf(`INSERT INTO outbox_dead (id, topic, key, payload, metadata, created_at, error, attempts, died_at)
			VALUES (%d, '%s', '%s', 'body %d', '{"n": "%d"}', now(), '%s', 3, now() - interval '%s')`, id, topic, key, id, id, err, age))
	}
	letter(1, "account", "a", "too large", "2 days")
	letter(2, "cqrs.billing.account", "b", "no route", "1 hour")
	letter(3, "author", "a", "too large", "1 minute")
	ids := func(args ...string) (found []float64) {
		t.Helper()
		o := s.onMaster("", append([]string{"dead-letters", "list", "--outbox", "--json"}, args...)...)
		o.expect(t, 0)
		for line := range strings.Lines(o.out) {
			var one map[string]any
			if err := json.Unmarshal([]byte(line), &one); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			found = append(found, one["id"].(float64))
		}
		return found
	}
	for _, tt := range []struct {
		args []string
		want []float64
	}{
		{nil, []float64{1, 2, 3}},
		{[]string{"--cqrs-id", "account"}, []float64{1, 2}},
		{[]string{"--key", "a"}, []float64{1, 3}},
		{[]string{"--reason", "large"}, []float64{1, 3}},
		{[]string{"--older-than", "30m"}, []float64{1, 2}},
		{[]string{"--older-than", "30m", "--key", "b", "--cqrs-id", "account", "--reason", "route"}, []float64{2}},
		{[]string{"--key", "z"}, nil},
	} {
		if diff := cmp.Diff(tt.want, ids(tt.args...)); diff != "" {
			t.Errorf("list %q (-want +have):\n%s", tt.args, diff)
		}
	}
	if o := s.onMaster("", "dead-letters", "list", "--outbox", "--key", "b"); !strings.Contains(o.out, "account/b  3 attempts  no route") {
		t.Errorf("list: %v", o)
	}
	if o := s.onMaster("", "dead-letters", "list", "--outbox", "--key", "z"); o.out != "" || o.stderr != "no dead letters are selected\n" {
		t.Errorf("list of none: %v", o)
	}
	s.exec(s.master, `UPDATE outbox_dead SET error = E'no route\n  to it' WHERE id = 2`)
	if o := s.onMaster("", "dead-letters", "list", "--outbox", "--key", "b"); !strings.HasSuffix(o.out, "no route …\n") || o.stderr != "" {
		t.Errorf("list of an error of two lines: %v", o)
	}
	s.onMaster("", "dead-letters", "dump", "--outbox", "--cqrs-id", "account").wantOut(t, "body 1\nbody 2\n")
	if o := s.onMaster("", "dead-letters", "show", "--outbox", "2"); !strings.Contains(o.out, `"payload":"body 2"`) || !strings.Contains(o.out, `"metadata":{"n":"2"}`) {
		t.Errorf("show: %v", o)
	}
	s.onMaster("", "dead-letters", "show", "--outbox", "99").expect(t, 1, "there is no dead letter 99")
	s.onMaster("", "dead-letters", "show", "--outbox", "x").expect(t, 2, `"x" is not an id`)
	s.onMaster("", "dead-letters", "show", "--outbox").expect(t, 2, "which one?")
	s.onMaster("", "dead-letters").expect(t, 2, "use list, show, dump, retry or purge")

	s.onMaster("", "dead-letters", "retry", "--outbox", "--cqrs-id", "account").wantOut(t, "2 dead letters put back\n")
	if n := s.int(s.master, `SELECT count(*) FROM outbox WHERE (topic, key) IN (('account', 'a'), ('cqrs.billing.account', 'b'))`); n != 2 {
		t.Errorf("%d letters are in the outbox, want 2", n)
	}
	s.onMaster("", "dead-letters", "purge", "--outbox").expect(t, 2, "--yes is missing")
	if have := ids(); len(have) != 1 {
		t.Errorf("left without --yes: %v, want one", have)
	}
	s.onMaster("", "dead-letters", "purge", "--outbox", "--yes", "--json").wantOut(t, `{"letters":1}`+"\n")
	if o := s.onMaster("", "dead-letters", "list", "--outbox"); o.code != 0 || o.out != "" || o.stderr != "no dead letters\n" {
		t.Errorf("list of what is left: %v", o)
	}
}

// Any number of letters ends.
func TestManyDeadLetters(t *testing.T) {
	t.Parallel()
	s := newSides(t, 0)
	s.exec(s.master, `INSERT INTO outbox_dead (id, topic, key, payload, metadata, created_at, error, attempts)
		SELECT i, 'account', i, 'x', '{}', now(), 'refused', 1 FROM generate_series(1, 2500) i`)
	o := s.onMaster("", "dead-letters", "dump", "--outbox")
	o.expect(t, 0)
	if n := strings.Count(o.out, "\n"); n != 2500 {
		t.Errorf("%d lines, want 2500", n)
	}
	s.onMaster("", "dead-letters", "retry", "--outbox").wantOut(t, "2500 dead letters put back\n")
}
