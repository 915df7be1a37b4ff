package reconcile_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/outbox"
	"github.com/lockstep-go/lockstep/reconcile"
)

// body is a stream without its header's time.
func body(t *testing.T, stream string) string {
	t.Helper()
	if stream == "" {
		return ""
	}
	first, rest, _ := strings.Cut(stream, "\n")
	columns := strings.Split(first, ",")
	if len(columns) < 2 || len(columns[1]) != len("2026-11-22 21:21:45.270311+00:00") {
		t.Fatalf("the header is %q", first)
	}
	columns[1] = "TIME"
	return strings.Join(columns, ",") + "\n" + rest
}

// The three steps find and mend what a replica lacks or has in another revision,
// and leave the rest alone.
func TestDiff(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, r *rig) {
		r.copied(7)
		r.exec(r.replica.DB, `DELETE FROM account_ref WHERE id = 2`)
		r.exec(r.replica.DB, `UPDATE account_ref SET cqrs_revision = 5 WHERE id = 4`)
		r.exec(r.master.DB, `UPDATE accounts SET cqrs_revision = 3 WHERE id = 6`)
		r.exec(r.master.DB, `DELETE FROM outbox`)

		var master, replica bytes.Buffer
		rows, err := reconcile.DiffMaster(t.Context(), &master, r.master, "account", outbox.All, 3, nil)
		if err != nil || rows != 7 {
			t.Fatalf("diff master: %d rows, %v", rows, err)
		}
		if diff := cmp.Diff("account,TIME\n[[1,1],[2,1],[3,1]]\n[[4,1],[5,1],[6,3]]\n[[7,1]]\n", body(t, master.String())); diff != "" {
			t.Errorf("diff master (-want +have):\n%s", diff)
		}
		header, _, _ := strings.Cut(master.String(), "\n")
		have, err := reconcile.DiffReplica(t.Context(), &master, &replica, r.replica, nil, nil)
		if diff := cmp.Diff(reconcile.Result{Entity: "account", Rows: 7, Found: 3}, have); diff != "" || err != nil {
			t.Fatalf("diff replica: %v (-want +have):\n%s", err, diff)
		}
		if diff := cmp.Diff(header+",billing\n[2]\n[4,6]\n", replica.String()); diff != "" {
			t.Errorf("diff replica (-want +have):\n%s", diff)
		}
		have, err = reconcile.DiffSync(t.Context(), &replica, r.master, reconcile.DiffSyncOptions{})
		if diff := cmp.Diff(reconcile.Result{Entity: "account", Rows: 3, Found: 3}, have); diff != "" || err != nil {
			t.Fatalf("diff sync: %v (-want +have):\n%s", err, diff)
		}
		if n := r.int(r.master.DB, `SELECT count(*) FROM outbox WHERE topic = 'cqrs.billing.account' AND "key" IN ('2', '4', '6')`); n != 3 {
			t.Errorf("%d events go to the queue, want 3", n)
		}
	})
}

func TestDeleted(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, r *rig) {
		r.copied(5)
		r.exec(r.master.DB, `DELETE FROM accounts WHERE id IN (2, 3, 5)`)

		var replica, master bytes.Buffer
		if rows, err := reconcile.DeletedReplica(t.Context(), &replica, r.replica, "account", 3, nil); err != nil || rows != 5 {
			t.Fatalf("deleted replica: %d rows, %v", rows, err)
		}
		if diff := cmp.Diff("account,TIME\n[1,2,3]\n[4,5]\n", body(t, replica.String())); diff != "" {
			t.Errorf("deleted replica (-want +have):\n%s", diff)
		}
		have, err := reconcile.DeletedMaster(t.Context(), &replica, &master, r.master, nil, nil)
		if diff := cmp.Diff(reconcile.Result{Entity: "account", Rows: 5, Found: 3}, have); diff != "" || err != nil {
			t.Fatalf("deleted master: %v (-want +have):\n%s", err, diff)
		}
		if diff := cmp.Diff("account,TIME\n[2,3]\n[5]\n", body(t, master.String())); diff != "" {
			t.Errorf("deleted master (-want +have):\n%s", diff)
		}
		// 3 is made anew in the meantime: it stays.
		r.exec(r.replica.DB, `UPDATE account_ref SET cqrs_revision = 9, cqrs_updated = '2099-01-01 00:00:00.000000' WHERE id = 3`)
		have, err = reconcile.DeletedSync(t.Context(), &master, r.replica, nil, nil)
		if diff := cmp.Diff(reconcile.Result{Entity: "account", Rows: 3, Found: 2}, have); diff != "" || err != nil {
			t.Fatalf("deleted sync: %v (-want +have):\n%s", err, diff)
		}
		if sum := r.int(r.replica.DB, `SELECT sum(id) FROM account_ref`); sum != 1+3+4 {
			t.Errorf("the ids left add up to %d, want 8", sum)
		}
		// The deleted rows' old state does not come back.
		late := `account
{"id":2,"name":"late","price":1,"active":true,"cqrs_revision":1,"cqrs_updated":"2026-01-02 03:04:05+00:00"}`
		if have, err := reconcile.Load(t.Context(), strings.NewReader(late), r.replica, reconcile.LoadOptions{}); err != nil || have.Skipped != 1 {
			t.Errorf("a late row: %+v, %v; want it skipped", have, err)
		}
	})
}

// Steps that a Django service made are continued, byte for byte as its own would.
func TestDjangoStreams(t *testing.T) {
	t.Parallel()
	for _, d := range []migrations.Dialect{migrations.Postgres, migrations.MySQL, migrations.SQLite} {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			db := open(t, d)
			table(t, db, d, "basic", `CREATE TABLE basic (id INTEGER PRIMARY KEY)`)
			if _, err := db.ExecContext(t.Context(), `INSERT INTO basic (id, cqrs_revision) VALUES (1, 1), (3, 0), (4, 0), (5, 0)`); err != nil {
				t.Fatal(err)
			}
			to := reconcile.Replica{DB: db, Consumer: newConsumer(t, db, "basic", consumer.Table{Name: "basic"}), Queue: "replica"}
			var out bytes.Buffer
			if _, err := reconcile.DiffReplica(t.Context(), bytes.NewReader(captured(t, "diff_master.out")), &out, to, nil, nil); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(captured(t, "diff_replica.out")), out.String()); diff != "" {
				t.Errorf("diff replica (-django +have):\n%s", diff)
			}
			if _, err := db.ExecContext(t.Context(), `INSERT INTO basic (id) VALUES (2)`); err != nil {
				t.Fatal(err)
			}
			m := reconcile.Master{DB: db, Outbox: newOutbox(t, outbox.Config{Dialect: d, Entities: []outbox.Entity{{ID: "basic", Table: "basic"}}})}
			out.Reset()
			if _, err := reconcile.DeletedMaster(t.Context(), bytes.NewReader(captured(t, "deleted_diff_replica.out")), &out, m, nil, nil); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(captured(t, "deleted_diff_master.out")), out.String()); diff != "" {
				t.Errorf("deleted master (-django +have):\n%s", diff)
			}
			synced, err := reconcile.DiffSync(t.Context(), bytes.NewReader(captured(t, "diff_replica.out")), m, reconcile.DiffSyncOptions{})
			if err != nil || synced.Found != 2 {
				t.Errorf("diff sync: %+v, %v", synced, err)
			}
			broadcast := strings.Replace(string(captured(t, "diff_replica.out")), ",replica", ",None", 1)
			if _, err := reconcile.DiffSync(t.Context(), strings.NewReader(broadcast), m, reconcile.DiffSyncOptions{}); err != nil {
				t.Fatal(err)
			}
			for topic, want := range map[string]int{"cqrs.replica.basic": 2, "basic": 2} {
				var n int
				if err := db.QueryRowContext(t.Context(), fmt.Sprintf(`SELECT count(*) FROM outbox WHERE topic = '%s'`, topic)).Scan(&n); err != nil || n != want {
					t.Errorf("%d events on topic %s (%v), want %d", n, topic, err, want)
				}
			}
			gone, err := reconcile.DeletedSync(t.Context(), strings.NewReader("basic,2099-11-22 21:21:52.826428+00:00\n[1,3,900]\n"), to, nil, nil)
			if err != nil || gone.Rows != 3 {
				t.Errorf("deleted sync: %+v, %v", gone, err)
			}
		})
	}
}

// Keys of every type go round: UUIDs, which stop django-cqrs, and texts.
func TestDiffKeyTypes(t *testing.T) {
	t.Parallel()
	keys := map[string][]string{
		"UUID": {"00000000-0000-0000-0000-00000000000a", "11111111-2222-3333-4444-555555555555"},
		"TEXT": {`a,"b"\`, `é 😀`},
	}
	for _, d := range []migrations.Dialect{migrations.Postgres, migrations.MySQL, migrations.SQLite} {
		for typ, values := range keys {
			t.Run(string(d)+" "+typ, func(t *testing.T) {
				t.Parallel()
				db, other := open(t, d), open(t, d)
				create := fmt.Sprintf(`CREATE TABLE things (code %s NOT NULL PRIMARY KEY)`, spelled(d, typ))
				table(t, db, d, "things", create)
				table(t, other, d, "things", create)
				for _, v := range values {
					if d == migrations.MySQL {
						v = strings.ReplaceAll(v, `\`, `\\`)
					}
					if _, err := db.ExecContext(t.Context(), fmt.Sprintf(`INSERT INTO things (code) VALUES ('%s')`, v)); err != nil {
						t.Fatal(err)
					}
				}
				m := reconcile.Master{DB: db, Outbox: newOutbox(t, outbox.Config{Dialect: d, Entities: []outbox.Entity{{ID: "thing", Table: "things", Key: "code"}}})}
				to := reconcile.Replica{DB: other, Consumer: newConsumer(t, other, "thing", consumer.Table{Name: "things", Key: "code"}), Queue: "q"}
				var one, two bytes.Buffer
				if _, err := reconcile.DiffMaster(t.Context(), &one, m, "thing", outbox.All, 0, nil); err != nil {
					t.Fatal(err)
				}
				var found []string
				have, err := reconcile.DiffReplica(t.Context(), &one, &two, to, nil, func(keys []json.RawMessage) {
					for _, k := range keys {
						var s string
						_ = json.Unmarshal(k, &s)
						found = append(found, s)
					}
				})
				if err != nil || have.Found != 2 || cmp.Diff(values, found) != "" {
					t.Fatalf("diff replica: %+v %q, %v", have, found, err)
				}
				if synced, err := reconcile.DiffSync(t.Context(), &two, m, reconcile.DiffSyncOptions{}); err != nil || synced.Found != 2 {
					t.Errorf("diff sync: %+v, %v", synced, err)
				}
			})
		}
	}
}

// What is no comparison is refused with its line.
func TestBadStreams(t *testing.T) {
	t.Parallel()
	r := newRig(t, migrations.SQLite, migrations.SQLite)
	const head = "account,2026-11-22 21:21:45.270311+00:00"
	for in, line := range map[string]int{
		"rubbish\n":                 1,
		"account,yesterday\n":       1,
		head + "\nrubbish\n":        2,
		head + "\n[[1,0]]\n{}\n":    3,
		head + "\n[[1,\"x\"]]\n":    2,
		head + "\n[[1,0]]\n[1,2]\n": 3,
	} {
		_, err := reconcile.DiffReplica(t.Context(), strings.NewReader(in), &bytes.Buffer{}, r.replica, nil, nil)
		var format *reconcile.FormatError
		if !errors.As(err, &format) || format.Line != line {
			t.Errorf("%q gives %v, want line %d", in, err, line)
		}
	}
	if _, err := reconcile.DiffSync(t.Context(), strings.NewReader(head+"\n[1]\n"), r.master, reconcile.DiffSyncOptions{}); err == nil || !strings.Contains(err.Error(), "no queue") {
		t.Errorf("a header without a queue gives %v", err)
	}
	for _, in := range []string{head + ",q\n[{}]\n", head + ",q\n[null]\n"} {
		if _, err := reconcile.DiffSync(t.Context(), strings.NewReader(in), r.master, reconcile.DiffSyncOptions{}); err == nil || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%q gives %v", in, err)
		}
	}
	if have, err := reconcile.DiffReplica(t.Context(), strings.NewReader(""), &bytes.Buffer{}, r.replica, nil, nil); err != nil || have != (reconcile.Result{}) {
		t.Errorf("an empty stream gives %+v, %v", have, err)
	}
}

func TestCompare(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, r *rig) {
		r.copied(8)
		r.exec(r.replica.DB, `DELETE FROM account_ref WHERE id = 2`)
		r.exec(r.replica.DB, `UPDATE account_ref SET cqrs_revision = 5 WHERE id = 4`)
		r.exec(r.replica.DB, `UPDATE account_ref SET title = 'other', price = 0.5 WHERE id = 6`)
		r.exec(r.master.DB, `DELETE FROM accounts WHERE id = 8`)

		var lines []string
		found := func(d reconcile.Difference) {
			line := fmt.Sprintf("%s %s %d/%d", d.What, d.Key, d.Master, d.Replica)
			for _, f := range d.Fields {
				line += fmt.Sprintf(" %s %s/%s", f.Name, f.Master, f.Replica)
			}
			lines = append(lines, strings.ReplaceAll(line, `"`, ``))
		}
		s, err := reconcile.Compare(t.Context(), r.master, r.replica, "account", reconcile.CompareOptions{Filter: outbox.All, Batch: 3, Found: found})
		if diff := cmp.Diff(reconcile.Summary{Entity: "account", Rows: 7, Missing: 1, Extra: 1, Revision: 1}, s); diff != "" || err != nil {
			t.Errorf("compared: %v (-want +have):\n%s", err, diff)
		}
		if diff := cmp.Diff([]string{"missing 2 1/0", "revision 4 1/5", "extra 8 0/1"}, lines); diff != "" {
			t.Errorf("differences (-want +have):\n%s", diff)
		}
		lines = nil
		s, err = reconcile.Compare(t.Context(), r.master, r.replica, "account", reconcile.CompareOptions{Filter: `{"id__gt": 2}`, Fields: true, Found: found})
		if diff := cmp.Diff(reconcile.Summary{Entity: "account", Rows: 5, Revision: 1, Fields: 1}, s); diff != "" || err != nil {
			t.Errorf("fields compared: %v (-want +have):\n%s", err, diff)
		}
		if len(lines) != 2 || !strings.Contains(lines[1], "name n6/other") || !strings.Contains(lines[1], "price 6.25/0.5") {
			t.Errorf("differences by field: %q", lines)
		}
	})
}
