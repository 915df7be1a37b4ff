package reconcile_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/outbox"
	"github.com/lockstep-go/lockstep/reconcile"
)

// A dump is the CQRS ID and a line a row, in key order, with no line break at the
// end; what it says is what a replica ends with.
func TestDumpAndLoad(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, r *rig) {
		r.save(12)
		dump := r.dump()
		lines := strings.Split(string(dump), "\n")
		if len(lines) != 13 || lines[0] != "account" || !strings.HasPrefix(lines[12], `{"id":12,"name":"n12","price":12.25,"active":true,"cqrs_revision":1,"cqrs_updated":"2`) {
			t.Fatalf("the dump is\n%s", dump)
		}
		for i := range 2 { // the second time everything is here already
			have, err := reconcile.Load(t.Context(), bytes.NewReader(dump), r.replica, reconcile.LoadOptions{Batch: 5})
			want := reconcile.LoadResult{Entity: "account", Applied: 12}
			if i == 1 {
				want.Applied, want.Skipped = 0, 12
			}
			if diff := cmp.Diff(want, have); diff != "" || err != nil {
				t.Fatalf("load %d: %v (-want +have):\n%s", i+1, err, diff)
			}
		}
		s, err := reconcile.Compare(t.Context(), r.master, r.replica, "account", reconcile.CompareOptions{Filter: outbox.All, Fields: true})
		if diff := cmp.Diff(reconcile.Summary{Entity: "account", Rows: 12}, s); diff != "" || err != nil {
			t.Errorf("compared: %v (-want +have):\n%s", err, diff)
		}
	})
}

// Bad lines are reported by number and cost no good row; in one transaction or in
// many, and wherever they stand.
func TestLoadIsolatesRows(t *testing.T) {
	t.Parallel()
	row := func(id int, name string) string {
		return fmt.Sprintf(`{"id":%d,"name":%q,"price":1,"active":true,"cqrs_revision":1,"cqrs_updated":"2026-01-02 03:04:05+00:00"}`, id, name)
	}
	dump := strings.Join([]string{
		"account",
		row(1, "a"),
		"", // 3
		"not JSON",
		`[1]`,
		row(2, strings.Repeat("too long", 5)), // 6
		row(3, "c"),
		`{"id":4,"name":null,"cqrs_revision":1,"cqrs_updated":"2026-01-02 03:04:05+00:00"}`, // 8
		`{"id":5,"name":"e"}`, // 9: no version
		strings.Replace(row(6, "f"), `1,"act`, `NaN,"act`, 1), // 10: as django-cqrs writes it
		row(7, "g"),
	}, "\n")
	onEach(t, func(t *testing.T, r *rig) {
		for i, apart := range []bool{false, true} {
			var failed []int
			have, err := reconcile.Load(t.Context(), strings.NewReader(dump), r.replica, reconcile.LoadOptions{
				Apart: apart, Clear: true, Batch: 4, Failed: func(line int, err error) {
					if err == nil {
						t.Errorf("line %d fails without a reason", line)
					}
					failed = append(failed, line)
				},
			})
			want := reconcile.LoadResult{Entity: "account", Applied: 4, Failed: 6}
			if i > 0 {
				want.Cleared = 4
			}
			if diff := cmp.Diff(want, have); diff != "" || err != nil {
				t.Fatalf("apart %v: %v (-want +have):\n%s", apart, err, diff)
			}
			if diff := cmp.Diff([]int{3, 4, 5, 6, 8, 9}, slices.Sorted(slices.Values(failed))); diff != "" {
				t.Errorf("apart %v: failed lines (-want +have):\n%s", apart, diff)
			}
			if ids := r.int(r.replica.DB, `SELECT sum(id) FROM account_ref`); ids != 1+3+6+7 {
				t.Errorf("apart %v: the ids here add up to %d", apart, ids)
			}
		}
	})
}

// Clear and load are one: when the load cannot be done, what was here stays.
func TestClearIsUndoneWithItsLoad(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, r *rig) {
		r.copied(5)
		broken := &stopping{Reader: bytes.NewReader(r.dump())}
		if _, err := reconcile.Load(t.Context(), broken, r.replica, reconcile.LoadOptions{Clear: true}); !errors.Is(err, errStopped) {
			t.Fatalf("a broken source gives %v", err)
		}
		if n := r.int(r.replica.DB, `SELECT count(*) FROM account_ref`); n != 5 {
			t.Errorf("%d rows are left after a load that broke off, want 5", n)
		}
		have, err := reconcile.Load(t.Context(), strings.NewReader("account"), r.replica, reconcile.LoadOptions{Clear: true})
		if n := r.int(r.replica.DB, `SELECT count(*) FROM account_ref`); n != 0 || have.Cleared != 5 || err != nil {
			t.Errorf("after loading an empty dump with Clear %d rows are left, %+v, %v", n, have, err)
		}
	})
}

var errStopped = errors.New("the source broke off")

// stopping ends with an error where its reader ends.
type stopping struct{ *bytes.Reader }

func (s *stopping) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil {
		return n, errStopped
	}
	return n, nil
}

func TestLoadFaults(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, r *rig) {
		if _, err := reconcile.Load(t.Context(), strings.NewReader(""), r.replica, reconcile.LoadOptions{}); !errors.Is(err, reconcile.ErrEmpty) {
			t.Errorf("an empty file gives %v", err)
		}
		if _, err := reconcile.Load(t.Context(), strings.NewReader("nobody\n{}"), r.replica, reconcile.LoadOptions{}); !errors.Is(err, consumer.ErrUnknownEntity) {
			t.Errorf("an unknown entity gives %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := reconcile.Load(ctx, bytes.NewReader(r.dump()), r.replica, reconcile.LoadOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("a cancelled load gives %v", err)
		}
	})
}

// What a django-cqrs master dumped is loaded.
func TestLoadDjangoDump(t *testing.T) {
	t.Parallel()
	for _, d := range []migrations.Dialect{migrations.Postgres, migrations.MySQL, migrations.SQLite} {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			db := open(t, d)
			table(t, db, d, "basic", `CREATE TABLE basic (id INTEGER PRIMARY KEY, char_field TEXT NOT NULL, decimal_field NUMERIC(20,4), uuid_field UUID, json_field JSON, datetime_field `+spelled(d, "TIMESTAMP")+`, bool_field BOOLEAN, null_char_field TEXT)`)
			to := reconcile.Replica{DB: db, Consumer: newConsumer(t, db, "basic", consumer.Table{Name: "basic"})}
			have, err := reconcile.Load(t.Context(), bytes.NewReader(captured(t, "basic.dump")), to, reconcile.LoadOptions{})
			if diff := cmp.Diff(reconcile.LoadResult{Entity: "basic", Applied: 5}, have); diff != "" || err != nil {
				t.Fatalf("load: %v (-want +have):\n%s", err, diff)
			}
			var text string
			if err := db.QueryRowContext(t.Context(), `SELECT char_field FROM basic WHERE id = 2 AND null_char_field = 'set'`).Scan(&text); err != nil || text != `row 2 é/"\<&> 😀` {
				t.Errorf("row 2 has %q (%v)", text, err)
			}
		})
	}
}
