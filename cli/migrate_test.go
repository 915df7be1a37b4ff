package cli_test

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/migrations"
)

// migration is one entry of what the commands print as JSON.
type migration struct {
	Version   int64     `json:"version"`
	Name      string    `json:"name"`
	AppliedAt time.Time `json:"applied_at"`
}

func parse(t *testing.T, output string) []migration {
	t.Helper()
	var list []migration
	if err := json.Unmarshal([]byte(output), &list); err != nil || list == nil {
		t.Fatalf("not a JSON array: %q (%v)", output, err)
	}
	return list
}

func names(list []migration) (all []string) {
	for _, m := range list {
		all = append(all, m.Name)
	}
	return all
}

func equal(t *testing.T, what string, want, have any) {
	t.Helper()
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("%s (-want +have):\n%s", what, diff)
	}
}

// newDatabases are the URLs of an empty database of each kind.
func newDatabases(t *testing.T) map[string]string {
	t.Helper()
	_, postgres := testdb.Postgres(t)
	_, maria := testdb.MariaDB(t)
	return map[string]string{"postgres": postgres, "mysql": testdb.MariaDBURL(t, maria), "sqlite": "sqlite://" + filepath.ToSlash(t.TempDir()) + "/new.db"}
}

var allNames = []string{"00001_master", "00002_replica", "00003_replica_retention"}

func TestMigrate(t *testing.T) {
	t.Parallel()
	for dialect, url := range newDatabases(t) {
		t.Run(dialect, func(t *testing.T) {
			t.Parallel()
			migrate := func(arg ...string) string {
				t.Helper()
				return mustRelay(t, append(append([]string{"migrate"}, arg...), "--database-url", url)...)
			}
			equal(t, "up", "applied 00001_master\napplied 00002_replica\napplied 00003_replica_retention\n", migrate("up"))
			equal(t, "up again", "nothing to do: every migration is applied\n", migrate("up"))
			for line := range strings.Lines(migrate("status")) {
				name, when, _ := strings.Cut(strings.TrimSpace(line), " ")
				if at, err := time.Parse(time.DateTime, strings.TrimSpace(when)); err != nil || time.Since(at).Abs() > time.Hour {
					t.Errorf("status of %s: %q is not a time of now", name, when)
				}
			}
			equal(t, "down", "rolled back 00003_replica_retention\n", migrate("down", "--yes"))
			if have := migrate("status"); !strings.Contains(have, "00003_replica_retention  pending\n") || strings.Count(have, "pending") != 1 {
				t.Errorf("status after one down:\n%s", have)
			}
			equal(t, "up after down", "applied 00003_replica_retention\n", migrate("up"))
			migrate("down", "--yes")
			equal(t, "second down", "rolled back 00002_replica\n", migrate("down", "--yes"))
			equal(t, "third down", "rolled back 00001_master\n", migrate("down", "--yes"))
			equal(t, "fourth down", "nothing to do: no migration is applied\n", migrate("down", "--yes"))
		})
	}
}

func TestMigrateJSON(t *testing.T) {
	t.Parallel()
	for dialect, url := range newDatabases(t) {
		t.Run(dialect, func(t *testing.T) {
			t.Parallel()
			migrate := func(command ...string) []migration {
				t.Helper()
				return parse(t, mustRelay(t, append(append([]string{"migrate"}, command...), "--json", "--database-url", url)...))
			}
			up := migrate("up")
			equal(t, "up", allNames, names(up))
			if up[0].Version != 1 || time.Since(up[0].AppliedAt).Abs() > time.Hour {
				t.Errorf("up: %+v", up[0])
			}
			equal(t, "up again", []migration{}, migrate("up"))
			equal(t, "down", []migration{{Version: 3, Name: "00003_replica_retention"}}, migrate("down", "--yes"))
			status := migrate("status")
			equal(t, "status", allNames, names(status))
			if status[0].AppliedAt.IsZero() || status[1].AppliedAt.IsZero() || !status[2].AppliedAt.IsZero() {
				t.Errorf("applied: %+v, want the first two", status)
			}
			migrate("down", "--yes")
			migrate("down", "--yes")
			equal(t, "down to nothing", []migration{}, migrate("down", "--yes"))
		})
	}
}

// What `migrate sql` and `migrate table` print is what the packages return, and
// each table gets its lines.
func TestMigratePrints(t *testing.T) {
	t.Parallel()
	for _, dialect := range []migrations.Dialect{migrations.Postgres, migrations.SQLite} {
		sql, err := migrations.SQL(dialect)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "sql", sql, mustRelay(t, "migrate", "sql", "--dialect", string(dialect)))
		want := ""
		for _, table := range []string{"accounts", "billing.author"} {
			lines, err := migrations.TableSQL(dialect, table)
			if err != nil {
				t.Fatal(err)
			}
			want += lines
		}
		equal(t, "table", want, mustRelay(t, "migrate", "table", "accounts", "billing.author", "--dialect", string(dialect)))
	}
	if have := mustRelay(t, "migrate", "table", "accounts"); !strings.Contains(have, "timestamptz") {
		t.Errorf("PostgreSQL is not the default:\n%s", have)
	}
}

// Outside of a terminal nothing is rolled back without --yes.
func TestMigrateDownAsks(t *testing.T) {
	t.Parallel()
	url := "sqlite://" + filepath.ToSlash(t.TempDir()) + "/new.db"
	mustRelay(t, "migrate", "up", "--database-url", url)
	relay(t, "migrate", "down", "--database-url", url).expect(t, 2, "--yes is missing: there is no terminal")
	equal(t, "up", "nothing to do: every migration is applied\n", mustRelay(t, "migrate", "up", "--database-url", url))
}
