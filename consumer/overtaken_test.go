package consumer

import (
	"fmt"
	"slices"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/event"
)

// syncs makes a SYNC that overwrites a row of any revision: django-cqrs's, or a forced
// one of Lockstep's.
func syncs(forced bool) func(key, revision int, name string) *message.Message {
	return func(key, revision int, name string) *message.Message {
		body := envelope("SYNC", "account", fmt.Sprintf(`{"id":%d,"name":%q,"note":null,%s}`, key, name, versionJSON(int64(revision), at(revision))))
		if !forced {
			return django(body)
		}
		m := lockstep(body)
		m.Metadata.Set(event.HeaderForce, "1")
		return m
	}
}

// TestFailedSyncThatWasOvertaken: a SYNC that overwrites a row of any revision, and fails
// at first, does not lower the row once a later message of its key is stored: neither in
// the same batch nor as a copy. When the later message fails, or is the older one, the
// SYNC is applied. A later message that was stale before that is applied then.
func TestFailedSyncThatWasOvertaken(t *testing.T) {
	t.Parallel()
	type make = func(key, revision int, name string) *message.Message
	cases := []struct {
		name   string
		batch  func(sync make) []*message.Message
		want   []string
		failed []string
	}{
		{"applied in the end, after a newer SAVE", func(sync make) []*message.Message {
			return []*message.Message{sync(1, 5, "b"), save(1, 6, "d"), save(4, 2, "w"), save(2, 5, "a")}
		}, []string{"1 d 6", "2 a 5", "3 c 4", "4 w 2", "5 h 8"}, nil},
		{"fails to the end, and a newer SAVE does not", func(sync make) []*message.Message {
			return []*message.Message{sync(1, 5, "b"), save(1, 6, "x")}
		}, []string{"1 x 6", "2 b 4", "3 c 4", "4 d 1", "5 h 8"}, nil},
		{"beside a culprit", func(sync make) []*message.Message {
			return []*message.Message{sync(1, 5, "b"), save(1, 6, "x"), save(2, 5, "y"), save(3, 5, "d")}
		}, []string{"1 x 6", "2 y 5", "3 c 4", "4 d 1", "5 h 8"}, []string{"3/5"}},
		{"a newer SAVE fails", func(sync make) []*message.Message {
			return []*message.Message{sync(1, 5, "b"), save(1, 6, "c"), save(2, 5, "y")}
		}, []string{"1 b 5", "2 y 5", "3 c 4", "4 d 1", "5 h 8"}, []string{"1/6"}},
		{"an older SAVE comes late", func(sync make) []*message.Message {
			return []*message.Message{sync(1, 7, "b"), save(1, 5, "x"), save(2, 5, "y")}
		}, []string{"1 b 7", "2 y 5", "3 c 4", "4 d 1", "5 h 8"}, nil},
		{"a SYNC lowers it once more", func(sync make) []*message.Message {
			return []*message.Message{sync(1, 5, "b"), sync(1, 3, "x"), save(2, 5, "y"), save(3, 5, "d")}
		}, []string{"1 x 3", "2 y 5", "3 c 4", "4 d 1", "5 h 8"}, []string{"3/5"}},
		{"newer than what is stored, and a DELETE comes after it", func(sync make) []*message.Message {
			return []*message.Message{sync(1, 5, "b"), remove(1, 6), save(2, 5, "y")}
		}, []string{"2 y 5", "3 c 4", "4 d 1", "5 h 8"}, nil},
		{"it lowers the row late, below a SAVE that was stale before", func(sync make) []*message.Message {
			return []*message.Message{sync(5, 5, "b"), save(5, 6, "z"), save(2, 5, "y"), save(3, 5, "d")}
		}, []string{"1 a 4", "2 y 5", "3 c 4", "4 d 1", "5 z 6"}, []string{"3/5"}},
		{"the same in a chain", func(sync make) []*message.Message {
			return []*message.Message{sync(5, 5, "b"), save(5, 6, "c"), save(2, 5, "a"), save(3, 5, "y"), save(1, 5, "x")}
		}, []string{"1 x 5", "2 a 5", "3 y 5", "4 d 1", "5 c 6"}, nil},
		{"the same, and the SAVE does not fit", func(sync make) []*message.Message {
			return []*message.Message{sync(5, 5, "b"), save(5, 6, "c"), save(2, 5, "d"), save(4, 2, "w")}
		}, []string{"1 a 4", "2 d 5", "3 c 4", "4 w 2", "5 b 5"}, []string{"5/6"}},
		{"it lowers the row, and nothing came after it", func(sync make) []*message.Message {
			return []*message.Message{sync(1, 2, "b"), save(2, 5, "y")}
		}, []string{"1 b 2", "2 y 5", "3 c 4", "4 d 1", "5 h 8"}, nil},
	}
	eachDialect(t, func(t *testing.T, d Dialect) {
		index := "CREATE UNIQUE INDEX one_title ON account_ref (title)"
		if d == MySQL {
			index = "CREATE UNIQUE INDEX one_title ON account_ref (title(20))"
		}
		r := newRig(t, d, map[string]Table{"account": {Name: "account_ref", Columns: accountColumns}}, accountTable, index)
		for _, forced := range []bool{false, true, false} { // after the first time the constraint is known to be violated
			for _, tc := range cases {
				r.overtake(t, fmt.Sprintf("%s, forced=%t", tc.name, forced), tc.batch(syncs(forced)), tc.want, tc.failed)
			}
		}
	})
}

func (r *rig) overtake(t *testing.T, name string, batch []*message.Message, want, failed []string) {
	t.Helper()
	r.empty(t)
	r.batch(t, save(1, 4, "a"), save(2, 4, "b"), save(3, 4, "c"), save(4, 1, "d"), save(5, 8, "h"))
	res := r.batch(t, batch...)
	var bad []string
	for _, f := range res.failures {
		bad = append(bad, fmt.Sprintf("%s/%d", f.in.key, f.in.Revision))
	}
	slices.Sort(bad)
	if diff := cmp.Diff(failed, bad); diff != "" {
		t.Errorf("%s: failed (-want +have):\n%s", name, diff)
	}
	if diff := cmp.Diff(want, r.versions(t)); diff != "" {
		t.Errorf("%s: rows (-want +have):\n%s", name, diff)
	}
	if sum := res.applied + res.superseded + res.stale + res.duplicate + len(res.failures); sum != len(batch) {
		t.Errorf("%s: %+v counts %d, want %d", name, res.tally, sum, len(batch))
	}
}

// versions returns the rows with their titles and revisions.
func (r *rig) versions(t *testing.T) []string {
	t.Helper()
	var lines []string
	for _, line := range dump(t, r.db, "SELECT id, title, cqrs_revision AS revision FROM account_ref") {
		var id, revision int
		var title string
		if _, err := fmt.Sscanf(line, "id=%d title=%s revision=%d", &id, &title, &revision); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		lines = append(lines, fmt.Sprint(id, " ", title, " ", revision))
	}
	return lines
}
