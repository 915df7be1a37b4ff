package reconcile_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/outbox"
	"github.com/lockstep-go/lockstep/reconcile"
)

// Keys of several columns go through every tool, and rows outside Where through
// none.
func TestCompositeKeysAndWhere(t *testing.T) {
	t.Parallel()
	for _, d := range []migrations.Dialect{migrations.Postgres, migrations.MySQL, migrations.SQLite} {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			r := &rig{t: t, master: reconcile.Master{DB: open(t, d)}, replica: reconcile.Replica{DB: open(t, d), Queue: "q"}}
			columns := ` (region ` + spelled(d, "TEXT") + ` NOT NULL, number INTEGER NOT NULL, name TEXT, PRIMARY KEY (region, number))`
			table(t, r.master.DB, d, "sites", "CREATE TABLE sites"+columns)
			table(t, r.replica.DB, d, "site_ref", "CREATE TABLE site_ref"+columns)
			keys := []string{"region", "number"}
			r.master.Outbox = newOutbox(t, outbox.Config{Dialect: d, Entities: []outbox.Entity{{ID: "site", Table: "sites", Keys: keys, Where: "number < 90"}}})
			r.replica.Consumer = newConsumer(t, r.replica.DB, "site", consumer.Table{Name: "site_ref", Keys: keys})
			r.exec(r.master.DB, `INSERT INTO sites (region, number, name, cqrs_revision) VALUES
				('eu', 7, 'a', 1), ('eu', 10, 'b', 1), ('us "x"', 7, 'c', 1), ('us', 8, 'd', 1), ('us', 99, 'outside', 1)`)

			var dump, out bytes.Buffer
			if rows, err := reconcile.Dump(t.Context(), &dump, r.master, "site", outbox.All, nil); err != nil || rows != 4 {
				t.Fatalf("dump: %d rows, %v; want the 4 inside", rows, err)
			}
			if have, err := reconcile.Load(t.Context(), &dump, r.replica, reconcile.LoadOptions{}); err != nil || have.Applied != 4 {
				t.Fatalf("load: %+v, %v", have, err)
			}
			r.exec(r.replica.DB, `UPDATE site_ref SET name = 'other' WHERE number = 10`)
			r.exec(r.replica.DB, `DELETE FROM site_ref WHERE region = 'us "x"'`)
			r.exec(r.replica.DB, `INSERT INTO site_ref (region, number) VALUES ('us', 99)`)
			var found []string
			_, err := reconcile.Compare(t.Context(), r.master, r.replica, "site", reconcile.CompareOptions{
				Filter: outbox.All, Fields: true, Batch: 2, Found: func(d reconcile.Difference) { found = append(found, d.What+" "+string(d.Key)) },
			})
			if diff := cmp.Diff([]string{`fields "[\"eu\",\"10\"]"`, `missing "[\"us \\\"x\\\"\",\"7\"]"`, `extra "[\"us\",\"99\"]"`}, found); diff != "" || err != nil {
				t.Errorf("compare: %v (-want +have):\n%s", err, diff)
			}

			var master bytes.Buffer
			if rows, err := reconcile.DiffMaster(t.Context(), &master, r.master, "site", `{"pk__in": [["us \"x\"","7"], "[\"eu\",\"7\"]"]}`, 0, nil); err != nil || rows != 2 {
				t.Fatalf("diff master: %d rows, %v", rows, err)
			}
			if _, err := reconcile.DiffReplica(t.Context(), &master, &out, r.replica, nil, nil); err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(out.String(), ",q\n"+`["[\"us \\\"x\\\"\",\"7\"]"]`+"\n") {
				t.Errorf("diff replica: %s", out.String())
			}
			if have, err := reconcile.DiffSync(t.Context(), &out, r.master, reconcile.DiffSyncOptions{}); err != nil || have.Found != 1 {
				t.Errorf("diff sync: %+v, %v", have, err)
			}
			if n := r.int(r.master.DB, `SELECT count(*) FROM outbox WHERE topic = 'cqrs.q.site'`); n != 1 {
				t.Errorf("%d events, want 1", n)
			}

			var all, gone bytes.Buffer
			if _, err := reconcile.DeletedReplica(t.Context(), &all, r.replica, "site", 0, nil); err != nil {
				t.Fatal(err)
			}
			if have, err := reconcile.DeletedMaster(t.Context(), &all, &gone, r.master, nil, nil); err != nil || have.Found != 1 {
				t.Errorf("deleted master: %+v, %v", have, err)
			}
			if have, err := reconcile.DeletedSync(t.Context(), &gone, r.replica, nil, nil); err != nil || have.Found != 1 {
				t.Errorf("deleted sync: %+v, %v", have, err)
			}
			if n := r.int(r.replica.DB, `SELECT count(*) FROM site_ref WHERE number < 90`); n != 3 || r.int(r.replica.DB, `SELECT count(*) FROM site_ref`) != 3 {
				t.Errorf("%d rows are left inside, want 3 and no other", n)
			}
			for _, filter := range []outbox.Filter{`{"pk": 7}`, `{"pk__gt": ["eu","7"]}`, `{"pk__in": [["eu"]]}`} {
				if _, err := r.master.Outbox.Count(t.Context(), r.master.DB, "site", filter); err == nil {
					t.Errorf("filter %s is taken", filter)
				}
			}
		})
	}
}
