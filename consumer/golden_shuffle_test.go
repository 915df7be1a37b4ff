package consumer

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestCapturedTrafficShuffled: the same rows in any order of arrival, cut into
// batches of any size.
func TestCapturedTrafficShuffled(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		tables, ddl := map[string]Table{}, []string{}
		for model := range goldenTables {
			tables[model] = Table{Name: model + "_ref"}
			ddl = append(ddl, goldenDDL(model))
		}
		r := newRig(t, d, tables, ddl...)
		for model := range goldenTables {
			for seed := range uint64(15) {
				random := rand.New(rand.NewPCG(seed, 3))
				messages := goldenMessages(t, model)
				if seed%3 == 2 {
					for _, m := range messages {
						messages = append(messages, m.Copy())
					}
				}
				random.Shuffle(len(messages), func(i, j int) { messages[i], messages[j] = messages[j], messages[i] })
				mustExec(t, r.db, "DELETE FROM "+model+"_ref")
				mustExec(t, r.db, "DELETE FROM replica_tombstones")
				r.cut(t, random, messages, 1+int(seed)*3)
				want, have := append(goldenRows(t, model), unsentDeletion[model]...), r.goldenStored(t, model+"_ref")
				for _, rows := range [][]map[string]string{want, have} {
					slices.SortFunc(rows, func(a, b map[string]string) int { return strings.Compare(a["id"], b["id"]) })
				}
				if diff := cmp.Diff(want, have); diff != "" {
					t.Errorf("%s, seed %d (-want +have):\n%s", model, seed, diff)
					break
				}
			}
		}
	})
}
