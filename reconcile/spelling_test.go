package reconcile_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/outbox"
	"github.com/lockstep-go/lockstep/reconcile"
)

// TestOtherSpellingsOfKeys: rows whose keys the replica spells in another way than the
// master are no differences, and none of them is taken for deleted.
func TestOtherSpellingsOfKeys(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name            string
		replica         migrations.Dialect
		master, follows string // types
		keys            []string
	}{
		{"times", migrations.Postgres, "timestamptz", "timestamptz", []string{"2026-01-02 03:04:05", "2026-01-02 03:04:05.123456", "1969-12-31 23:59:59.5"}},
		{"times", migrations.SQLite, "timestamptz", "TIMESTAMP", []string{"2026-01-02 03:04:05", "2026-01-02 03:04:05.123456", "1969-12-31 23:59:59.5"}},
		{"another scale", migrations.Postgres, "numeric(12,2)", "numeric(14,4)", []string{"1.5", "-2", "100"}},
		{"another scale", migrations.SQLite, "numeric(12,2)", "NUMERIC", []string{"1.5", "-2", "100"}},
		{"filled up", migrations.Postgres, "text", "char(20)", []string{"ab", "x y", "z"}},
		{"booleans", migrations.SQLite, "boolean", "BOOLEAN", []string{"true", "false"}},
		{"bools", migrations.SQLite, "boolean", "bool", []string{"true", "false"}},
		{"booleans", migrations.MySQL, "boolean", "boolean", []string{"true", "false"}},
		{"large and small", migrations.Postgres, "double precision", "numeric(40,10)", []string{"1e20", "0.25", "-3"}},
	} {
		for _, composite := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s %s composite=%t", tc.replica, tc.name, composite), func(t *testing.T) {
				t.Parallel()
				r := &rig{t: t, master: reconcile.Master{DB: open(t, migrations.Postgres)}, replica: reconcile.Replica{DB: open(t, tc.replica), Queue: "q"}}
				columns, keys := " (code %s NOT NULL PRIMARY KEY, part integer NOT NULL)", []string{"code"}
				if composite {
					columns, keys = " (code %s NOT NULL, part integer NOT NULL, PRIMARY KEY (code, part))", []string{"code", "part"}
				}
				table(t, r.master.DB, migrations.Postgres, "things", "CREATE TABLE things"+fmt.Sprintf(columns, tc.master))
				table(t, r.replica.DB, tc.replica, "thing_ref", "CREATE TABLE thing_ref"+fmt.Sprintf(columns, tc.follows))
				r.master.Outbox = newOutbox(t, outbox.Config{Dialect: migrations.Postgres, Entities: []outbox.Entity{{ID: "thing", Table: "things", Keys: keys}}})
				r.replica.Consumer = newConsumer(t, r.replica.DB, "thing", consumer.Table{Name: "thing_ref", Keys: keys})
				for _, key := range tc.keys {
					r.exec(r.master.DB, fmt.Sprintf("INSERT INTO things (code, part, cqrs_revision) VALUES ('%s', 5, 1)", key))
				}
				var dump bytes.Buffer
				if _, err := reconcile.Dump(t.Context(), &dump, r.master, "thing", outbox.All, nil); err != nil {
					t.Fatal(err)
				}
				if have, err := reconcile.Load(t.Context(), &dump, r.replica, reconcile.LoadOptions{}); err != nil || int(have.Applied) != len(tc.keys) {
					t.Fatalf("load: %+v, %v", have, err)
				}
				r.differ(t, "as loaded", int64(len(tc.keys)), 0)
				r.exec(r.master.DB, fmt.Sprintf("DELETE FROM things WHERE code = '%s'", tc.keys[1]))
				r.differ(t, "one deleted", int64(len(tc.keys)), 1)
			})
		}
	}
}

// differ compares both sides in every way: of the replica's rows so many are too many.
func (r *rig) differ(t *testing.T, when string, rows, extra int64) {
	t.Helper()
	var found []string
	want := reconcile.Summary{Entity: "thing", Rows: rows - extra, Extra: extra}
	have, err := reconcile.Compare(t.Context(), r.master, r.replica, "thing", reconcile.CompareOptions{
		Filter: outbox.All, Found: func(d reconcile.Difference) { found = append(found, d.What+" "+string(d.Key)) },
	})
	if diff := cmp.Diff(want, have); diff != "" || err != nil {
		t.Errorf("%s: compare: %v (-want +have):\n%s%s", when, err, diff, strings.Join(found, ", "))
	}
	var master, differ, replica, gone bytes.Buffer
	if _, err := reconcile.DiffMaster(t.Context(), &master, r.master, "thing", outbox.All, 0, nil); err != nil {
		t.Fatal(err)
	}
	if have, err := reconcile.DiffReplica(t.Context(), &master, &differ, r.replica, nil, nil); err != nil || have.Found != 0 || have.Rows != rows-extra {
		t.Errorf("%s: diff replica: %+v, %v\n%s", when, have, err, differ.String())
	}
	if _, err := reconcile.DeletedReplica(t.Context(), &replica, r.replica, "thing", 0, nil); err != nil {
		t.Fatal(err)
	}
	if have, err := reconcile.DeletedMaster(t.Context(), &replica, &gone, r.master, nil, nil); err != nil || have.Found != extra || have.Rows != rows {
		t.Errorf("%s: deleted master: %+v, %v\n%s", when, have, err, gone.String())
	}
}
