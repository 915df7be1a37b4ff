package consumer

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestTriggerThatFailsLate: a row that a trigger refuses after it was written, without
// taking it back, is not there, alone and in a batch.
func TestTriggerThatFailsLate(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"AFTER INSERT", "BEFORE INSERT", "AFTER UPDATE"} {
		r := newRig(t, SQLite, map[string]Table{"account": {Name: "account_ref", Columns: accountColumns}}, accountTable,
			`CREATE TRIGGER no `+when+` ON account_ref WHEN NEW.title = 'bad' BEGIN SELECT RAISE(FAIL, 'no'); END`)
		want := []string{"id=3 title=good"}
		revision := 1
		if strings.HasSuffix(when, "UPDATE") {
			r.batch(t, save(1, 1, "one"), save(2, 1, "two"), save(3, 1, "three"))
			want, revision = []string{"id=1 title=one", "id=2 title=two", "id=3 title=good"}, 2
		}
		if res := r.batch(t, save(1, revision, "bad")); len(res.failures) != 1 || res.applied != 0 {
			t.Errorf("%s, alone: have %+v, want 1 failure", when, res)
		}
		if res := r.batch(t, save(1, revision, "bad"), save(2, revision, "bad"), save(3, revision, "good")); len(res.failures) != 2 || res.applied != 1 || res.duplicate != 0 {
			t.Errorf("%s, in a batch: have %+v, want 1 applied and 2 failures", when, res)
		}
		if diff := cmp.Diff(want, r.titles(t)); diff != "" {
			t.Errorf("%s: rows (-want +have):\n%s", when, diff)
		}
	}
}

// TestDeleteWithoutTombstone: where no tombstone can be left, the row stays.
func TestDeleteWithoutTombstone(t *testing.T) {
	t.Parallel()
	r := newRig(t, MySQL, map[string]Table{"account": {Name: "account_ref", Columns: accountColumns}},
		strings.Replace(accountTable, "bigint", "varchar(750) COLLATE utf8mb4_bin", 1))
	long := strings.Repeat("😀", 740)
	r.batch(t, save(long, 1, "x"), save("far", 1, "y"))
	far := lockstep(envelope("DELETE", "account", `{"id":"far","cqrs_revision":2,"cqrs_updated":"9999-12-31T23:59:59-23:59"}`))
	for _, beside := range []int{2, 3} {
		res := r.batch(t, remove(long, 2), far.Copy(), save("beside", beside, "z"))
		if len(res.failures) != 2 || res.applied != 1 {
			t.Errorf("have %+v, want 1 applied and 2 failures", res)
		}
		if res := r.batch(t, far.Copy()); len(res.failures) != 1 {
			t.Errorf("alone: have %+v, want a failure", res)
		}
	}
	if diff := cmp.Diff([]string{"n=3"}, dump(t, r.db, "SELECT count(*) AS n FROM account_ref")); diff != "" {
		t.Errorf("rows (-want +have):\n%s", diff)
	}
}

// TestRowZeroIsNumbered: where the database would give a row of key 0 another key, the
// message fails and no row is made. Where it does not, there is a row 0.
func TestRowZeroIsNumbered(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"AUTO_INCREMENT PRIMARY KEY", "PRIMARY KEY"} {
		r := newRig(t, MySQL, map[string]Table{"account": {Name: "account_ref", Columns: accountColumns}}, strings.Replace(accountTable, "PRIMARY KEY", how, 1))
		failures, want := 1, []string{"id=7 title=seven"}
		if how == "PRIMARY KEY" {
			failures, want = 0, []string{"id=0 title=nil", "id=7 title=seven"}
		}
		if res := r.batch(t, save(0, 1, "nil")); len(res.failures) != failures {
			t.Errorf("%s, alone: have %+v, want %d failures", how, res, failures)
		}
		res := r.batch(t, save(0, 2, "nil"), save(7, 1, "seven"))
		if len(res.failures) != failures || failures > 0 && !strings.Contains(fmt.Sprint(res.failures[0].err), "NO_AUTO_VALUE_ON_ZERO") {
			t.Errorf("%s, in a batch: have %+v, want %d failures", how, res, failures)
		}
		if diff := cmp.Diff(want, r.titles(t)); diff != "" {
			t.Errorf("%s: rows (-want +have):\n%s", how, diff)
		}
	}
}
