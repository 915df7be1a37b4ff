package consumer

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
)

// holder makes an event of a row that holds a unique value; a value of "" is a DELETE.
type holder struct {
	key      int
	value    string
	revision int
}

func (h holder) message() *message.Message {
	if h.value == "" {
		return remove(h.key, h.revision)
	}
	return save(h.key, h.revision, h.value)
}

// handovers are batches in which rows take unique values that others give up. Before
// each, row n holds "vn", for n from 1 to 9, with revision 1.
var handovers = []struct {
	name   string
	batch  []holder
	want   map[int]string // what has changed; "" for a row that is gone
	failed []string
}{
	{"to a higher key", []holder{{1, "x", 2}, {2, "v1", 2}}, map[int]string{1: "x", 2: "v1"}, nil},
	{"to a lower key", []holder{{2, "x", 2}, {1, "v2", 2}}, map[int]string{1: "v2", 2: "x"}, nil},
	{"to a new row", []holder{{1, "x", 2}, {10, "v1", 1}}, map[int]string{1: "x", 10: "v1"}, nil},
	{"from a deleted row", []holder{{1, "", 2}, {2, "v1", 2}}, map[int]string{1: "", 2: "v1"}, nil},
	{"from a deleted row to a new one", []holder{{9, "", 2}, {10, "v9", 1}}, map[int]string{9: "", 10: "v9"}, nil},
	{"taken before it is given up", []holder{{2, "v1", 2}, {1, "x", 2}}, map[int]string{1: "x", 2: "v1"}, nil},
	{"from one to the next, in order", []holder{
		{1, "x", 2}, {2, "v1", 2}, {3, "v2", 2}, {4, "v3", 2}, {5, "v4", 2}, {6, "v5", 2}, {7, "v6", 2}, {8, "v7", 2}, {9, "v8", 2},
	}, map[int]string{1: "x", 2: "v1", 3: "v2", 4: "v3", 5: "v4", 6: "v5", 7: "v6", 8: "v7", 9: "v8"}, nil},
	{"the same to lower keys", []holder{
		{9, "x", 2}, {8, "v9", 2}, {7, "v8", 2}, {6, "v7", 2}, {5, "v6", 2}, {4, "v5", 2}, {3, "v4", 2}, {2, "v3", 2}, {1, "v2", 2},
	}, map[int]string{1: "v2", 2: "v3", 3: "v4", 4: "v5", 5: "v6", 6: "v7", 7: "v8", 8: "v9", 9: "x"}, nil},
	{"to lower keys, in the wrong order", []holder{
		{1, "v2", 2}, {2, "v3", 2}, {3, "v4", 2}, {4, "v5", 2}, {5, "v6", 2}, {6, "v7", 2}, {7, "v8", 2}, {8, "v9", 2}, {9, "x", 2},
	}, map[int]string{1: "v2", 2: "v3", 3: "v4", 4: "v5", 5: "v6", 6: "v7", 7: "v8", 8: "v9", 9: "x"}, nil},
	{"to higher keys, in the wrong order", []holder{
		{9, "v8", 2}, {8, "v7", 2}, {7, "v6", 2}, {6, "v5", 2}, {5, "v4", 2}, {4, "v3", 2}, {3, "v2", 2}, {2, "v1", 2}, {1, "x", 2},
	}, map[int]string{1: "x", 2: "v1", 3: "v2", 4: "v3", 5: "v4", 6: "v5", 7: "v6", 8: "v7", 9: "v8"}, nil},
	{"some in the wrong order", []holder{{4, "v3", 2}, {3, "v2", 2}, {2, "v1", 2}, {1, "x", 2}}, map[int]string{1: "x", 2: "v1", 3: "v2", 4: "v3"}, nil},
	{"exchanged by way of a third value", []holder{{1, "x", 2}, {2, "v1", 2}, {1, "v2", 3}}, map[int]string{1: "v2", 2: "v1"}, nil},
	{"beside one that is taken for good", []holder{{3, "v4", 2}, {2, "v1", 2}, {1, "x", 2}, {5, "v6", 2}}, map[int]string{1: "x", 2: "v1"}, []string{"3", "5"}},
	{"beside a row made anew", []holder{{8, "", 2}, {8, "y", 3}, {2, "v1", 2}, {1, "x", 2}, {5, "v6", 2}}, map[int]string{1: "x", 2: "v1", 8: "y"}, []string{"5"}},
	{"exchanged at once", []holder{{1, "v2", 2}, {2, "v1", 2}, {3, "x", 2}}, map[int]string{3: "x"}, []string{"1", "2"}},
}

// TestHandovers: of a batch in which rows take unique values that others give up, each
// message is applied at once, in whatever order they came, and only those fail whose
// value is still taken in the end.
func TestHandovers(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		for _, how := range []string{", UNIQUE (title)", ", UNIQUE INDEX", ", expression"} {
			ddl := []string{strings.Replace(accountTable, "title text", "title varchar(20)", 1)}
			switch {
			case how == ", UNIQUE (title)":
				ddl[0] = strings.TrimSuffix(ddl[0], ")") + how + ")"
			case how == ", UNIQUE INDEX":
				ddl = append(ddl, "CREATE UNIQUE INDEX one_title ON account_ref (title)")
			case d == MySQL:
				continue
			default:
				ddl = append(ddl, "CREATE UNIQUE INDEX one_title ON account_ref (lower(title))")
			}
			r := newRig(t, d, map[string]Table{"account": {Name: "account_ref", Columns: accountColumns}}, ddl...)
			for range 2 { // the second time the constraint is known to be violated
				for _, h := range handovers {
					r.handOver(t, how, h.name, h.batch, h.want, h.failed)
				}
			}
		}
	})
}

// TestExchangeUnderADeferrableConstraint: on PostgreSQL two rows exchange unique values at
// once where the constraint waits for the commit, also after the batch was taken apart
// for another message.
func TestExchangeUnderADeferrableConstraint(t *testing.T) {
	t.Parallel()
	ddl := strings.TrimSuffix(accountTable, ")") + ", UNIQUE (title) DEFERRABLE INITIALLY DEFERRED, CHECK (title <> 'bad'))"
	r := newRig(t, Postgres, map[string]Table{"account": {Name: "account_ref", Columns: accountColumns}}, ddl)
	want := map[int]string{1: "v2", 2: "v1"}
	exchange := []holder{{1, "v2", 2}, {2, "v1", 2}}
	for range 2 {
		r.handOver(t, "", "an exchange", exchange, want, nil)
		r.handOver(t, "", "an exchange beside a culprit", append(exchange, holder{3, "bad", 2}), want, []string{"3"})
	}
}

func (r *rig) handOver(t *testing.T, how, name string, batch []holder, want map[int]string, failed []string) {
	t.Helper()
	r.empty(t)
	rows := map[int]string{}
	var messages []*message.Message
	for n := 1; n <= 9; n++ {
		rows[n] = fmt.Sprint("v", n)
		messages = append(messages, save(n, 1, rows[n]))
	}
	r.batch(t, messages...)
	messages = nil
	for _, h := range batch {
		messages = append(messages, h.message())
	}
	res := r.batch(t, messages...)
	var bad, lines []string
	for _, f := range res.failures {
		bad = append(bad, f.in.key)
	}
	slices.Sort(bad)
	if diff := cmp.Diff(failed, bad); diff != "" {
		t.Errorf("%s%s: failed (-want +have):\n%s", name, how, diff)
	}
	for key, value := range want {
		rows[key] = value
	}
	for key, value := range rows {
		if value != "" {
			lines = append(lines, fmt.Sprintf("id=%d title=%s", key, value))
		}
	}
	slices.Sort(lines)
	if diff := cmp.Diff(lines, r.titles(t)); diff != "" {
		t.Errorf("%s%s: rows (-want +have):\n%s", name, how, diff)
	}
	if sum := res.applied + res.superseded + res.stale + res.duplicate + len(res.failures); sum != len(batch) {
		t.Errorf("%s%s: %+v counts %d, want %d", name, how, res.tally, sum, len(batch))
	}
}
