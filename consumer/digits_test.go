package consumer

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestKeysOfManyDigitsOnSQLite: a key that SQLite would round, and so take for another
// one's, fails its message, unless the column keeps text.
func TestKeysOfManyDigitsOnSQLite(t *testing.T) {
	t.Parallel()
	keys := []any{json.Number("12345678901234567890.12345"), json.Number("12345678901234567890"), "0.12345678901234567890", 9007199254740993, json.Number("0.30000000000000004"), json.Number("1.50"), json.Number("1e20")}
	for kind, want := range map[string][]string{
		"numeric": {"12345678901234567890.12345", "12345678901234567890", "0.12345678901234567890"},
		"text":    nil,
	} {
		r := newRig(t, SQLite, map[string]Table{"account": {Name: "account_ref", Columns: accountColumns}}, strings.Replace(accountTable, "id bigint", "id "+kind, 1))
		var have []string
		for _, key := range keys {
			for _, f := range r.batch(t, save(key, 1, "a")).failures {
				have = append(have, f.in.key)
			}
		}
		if diff := cmp.Diff(want, have); diff != "" {
			t.Errorf("%s: failed (-want +have):\n%s", kind, diff)
		}
		if rows := dump(t, r.db, "SELECT id FROM account_ref"); len(rows) != len(keys)-len(want) {
			t.Errorf("%s: rows %q, want %d", kind, rows, len(keys)-len(want))
		}
	}
}
