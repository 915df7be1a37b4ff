package consumer

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/internal/testdb"
)

// TestTablesOfOneName: tables of the same name in two schemas have their own rows
// and tombstones; one table under two spellings of its name is refused.
func TestTablesOfOneName(t *testing.T) {
	t.Parallel()
	for _, d := range []Dialect{Postgres, MySQL} {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			db := openDB(t, d, accountTable)
			other, current := testdb.Postgres, "current_schema()"
			if d == MySQL {
				other, current = testdb.MariaDB, "database()"
			}
			second, _ := other(t)
			var schemas [2]string
			if err := db.QueryRowContext(t.Context(), "SELECT "+current).Scan(&schemas[0]); err != nil {
				t.Fatal(err)
			}
			if err := second.QueryRowContext(t.Context(), "SELECT "+current).Scan(&schemas[1]); err != nil {
				t.Fatal(err)
			}
			timeType := map[Dialect]string{Postgres: "timestamptz", MySQL: "datetime(6)"}[d]
			mustExec(t, second, strings.ReplaceAll(accountTable, "%s", timeType))
			r := rigOn(t, db, map[string]Table{
				"account": {Name: "account_ref", Columns: accountColumns},
				"member":  {Name: schemas[1] + ".account_ref", Columns: accountColumns},
			})
			member := save(1, 3, "member")
			member.Payload = []byte(strings.Replace(string(member.Payload), `"account"`, `"member"`, 1))
			r.batch(t, save(1, 1, "one"), remove(1, 9), member)
			if rows := r.titles(t); len(rows) != 0 {
				t.Errorf("have %v, want no account", rows)
			}
			if diff := cmp.Diff([]string{"id=1 title=member"}, dump(t, second, "SELECT id, title FROM account_ref")); diff != "" {
				t.Errorf("members (-want +have):\n%s", diff)
			}

			c, err := New(db, newTestBroker(), Config{Queue: "replica"})
			if err != nil {
				t.Fatal(err)
			}
			for id, name := range map[string]string{"a": "account_ref", "b": schemas[0] + ".account_ref"} {
				if err := c.Table(id, Table{Name: name, Columns: accountColumns}); err != nil {
					t.Fatal(err)
				}
			}
			requireFaults(t, c.Check(t.Context()), fmt.Sprintf(`entity "b": table %s.account_ref follows "a" already, as account_ref`, schemas[0]))
		})
	}
}
