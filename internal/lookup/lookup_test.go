package lookup_test

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/internal/dialect"
	"github.com/lockstep-go/lockstep/internal/lookup"
	"github.com/lockstep-go/lockstep/internal/testdb"
)

// rig is a table with the same four rows in a database.
type rig struct {
	dialect dialect.Name
	db      *sql.DB
	table   lookup.Table
}

const postgresTable = `
CREATE TABLE item (
    id integer PRIMARY KEY, name varchar(40), code char(3), tag__x text, active boolean, price numeric(10,2),
    born date, opens time, seen timestamptz, local timestamp, uid uuid, extra jsonb, plain json, sizes integer[],
    cqrs_revision bigint NOT NULL DEFAULT 0, cqrs_updated timestamptz NOT NULL DEFAULT now());
INSERT INTO item VALUES
    (1, 'Anna',   'abc', 'x',  true,  1.50,  '2026-01-01', '08:30:15', '2026-01-01 08:30:15.5+00', '2026-01-01 08:30:15', '00000000-0000-0000-0000-000000000001', '{"a": 1}', '{"a": 1}', '{1,2}'),
    (2, '50%_x\', 'ab',  'y',  false, 20,    '2025-12-29', '12:00:00', '2025-12-31 23:30:00-02', '2025-12-31 23:30:00', '00000000-0000-0000-0000-000000000002', '[1]', '[1]', '{}'),
    (3, 'ANNE',   NULL,  NULL, NULL,  NULL,  NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (4, '',       '',    'z',  true,  -3.25, '2024-06-02', '23:59:59', '2024-06-02 23:59:59+00', '2024-06-02 23:59:59', '00000000-0000-0000-0000-00000000000a', '{}', '{}', '{3}');`

const sqliteTable = `
CREATE TABLE item (
    id INTEGER PRIMARY KEY, name VARCHAR(40), code CHAR(3), tag__x TEXT, active BOOLEAN, price NUMERIC(10,2),
    born DATE, opens TIME, seen TEXT, local DATETIME, uid TEXT, extra JSON, plain JSON, sizes JSON,
    cqrs_revision INTEGER NOT NULL DEFAULT 0, cqrs_updated TEXT NOT NULL DEFAULT '');
INSERT INTO item VALUES
    (1, 'Anna',   'abc', 'x',  1, 1.50,  '2026-01-01', '08:30:15', '2026-01-01 08:30:15.500000+00:00', '2026-01-01 08:30:15.000000+00:00', '00000000-0000-0000-0000-000000000001', '{"a": 1}', '{"a": 1}', '[1,2]', 0, ''),
    (2, '50%_x\', 'ab',  'y',  0, 20,    '2025-12-29', '12:00:00', '2026-01-01 01:30:00.000000+00:00', '2025-12-31 23:30:00.000000+00:00', '00000000-0000-0000-0000-000000000002', '[1]', '[1]', '[]', 0, ''),
    (3, 'ANNE',   NULL,  NULL, NULL,  NULL,  NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, ''),
    (4, '',       '',    'z',  1, -3.25, '2024-06-02', '23:59:59', '2024-06-02 23:59:59.000000+00:00', '2024-06-02 23:59:59.000000+00:00', '00000000-0000-0000-0000-00000000000a', '{}', '{}', '[3]', 0, '');`

const mysqlTable = `
CREATE TABLE item (
    id int PRIMARY KEY, name varchar(40), code char(3), tag__x text, active boolean, price decimal(10,2),
    born date, opens time, seen timestamp(6) NULL, local datetime(6), uid uuid, extra json, plain json, sizes json,
    cqrs_revision bigint NOT NULL DEFAULT 0, cqrs_updated datetime(6) NOT NULL DEFAULT now(6)) CHARACTER SET utf8mb4;
SET time_zone = '+00:00';
INSERT INTO item (id, name, code, tag__x, active, price, born, opens, seen, local, uid, extra, plain, sizes) VALUES
    (1, 'Anna',    'abc', 'x',  true,  1.50,  '2026-01-01', '08:30:15', '2026-01-01 08:30:15.5', '2026-01-01 08:30:15', '00000000-0000-0000-0000-000000000001', '{"a": 1}', '{"a": 1}', '[1,2]'),
    (2, '50%_x\\', 'ab',  'y',  false, 20,    '2025-12-29', '12:00:00', '2026-01-01 01:30:00',   '2025-12-31 23:30:00', '00000000-0000-0000-0000-000000000002', '[1]', '[1]', '[]'),
    (3, 'ANNE',    NULL,  NULL, NULL,  NULL,  NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (4, '',        '',    'z',  true,  -3.25, '2024-06-02', '23:59:59', '2024-06-02 23:59:59',   '2024-06-02 23:59:59', '00000000-0000-0000-0000-00000000000a', '{}', '{}', '[3]');`

func rigs(t *testing.T) []*rig {
	t.Helper()
	pg, _ := testdb.Postgres(t)
	lite, _ := testdb.SQLite(t)
	maria, _ := testdb.MariaDB(t)
	all := []*rig{{dialect: dialect.Postgres, db: pg}, {dialect: dialect.SQLite, db: lite}, {dialect: dialect.MySQL, db: maria}}
	for i, create := range []string{postgresTable, sqliteTable, mysqlTable} {
		r := all[i]
		if _, err := r.db.ExecContext(t.Context(), create); err != nil {
			t.Fatalf("%s: %v", r.dialect, err)
		}
		table, err := r.dialect.LoadTable(t.Context(), r.db, "item")
		if err != nil {
			t.Fatal(err)
		}
		r.table = lookup.Table{Table: table, Keys: []dialect.Column{*table.Column("id")}, Alias: "t"}
	}
	return all
}

// ids returns what a filter selects: ids in order, or the error.
func (r *rig) ids(t *testing.T, filter string) string {
	t.Helper()
	c, err := lookup.Compile(r.dialect, r.table, filter, 1)
	if err != nil {
		return err.Error()
	}
	rows, err := r.dialect.Over(r.db).QueryContext(t.Context(), "SELECT t.id FROM item t WHERE "+c.SQL+" ORDER BY t.id", c.Args...)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = rows.Close() }()
	var found []string
	for rows.Next() {
		var id int
		if err := rows.Scan(&id); err != nil {
			return err.Error()
		}
		found = append(found, fmt.Sprint(id))
	}
	if err := rows.Err(); err != nil {
		return err.Error()
	}
	return strings.Join(found, " ")
}

// Every lookup selects the rows that Django's does, on every database.
func TestLookups(t *testing.T) {
	t.Parallel()
	tests := []struct{ filter, want string }{
		{`{}`, "1 2 3 4"},
		{` { } `, "1 2 3 4"},
		{`{"id": 2}`, "2"},
		{`{"id": "2"}`, "2"},
		{`{"pk": 2}`, "2"},
		{`{"pk__in": [1, "4"]}`, "1 4"},
		{`{"id__exact": 2}`, "2"},
		{`{"id__in": [1, 3, null, 99]}`, "1 3"},
		{`{"id__in": []}`, ""},
		{`{"id__gt": 2}`, "3 4"},
		{`{"id__gte": 2, "id__lt": 4}`, "2 3"},
		{`{"id__lte": 2}`, "1 2"},
		{`{"id__range": [2, 3]}`, "2 3"},
		{`{"name": "Anna"}`, "1"},
		{`{"name": "anna"}`, ""},
		{`{"name": ""}`, "4"},
		{`{"name__iexact": "aNNa"}`, "1"},
		{`{"name__iexact": "50%_X\\"}`, "2"},
		{`{"name__iexact": "%"}`, ""},
		{`{"name__in": ["Anna", "50%_x\\", "a\"b,{}"]}`, "1 2"},
		{`{"name__contains": "nn"}`, "1"},
		{`{"name__contains": "%"}`, "2"},
		{`{"name__contains": "_"}`, "2"},
		{`{"name__contains": "\\"}`, "2"},
		{`{"name__contains": ""}`, "1 2 3 4"},
		{`{"name__icontains": "nn"}`, "1 3"},
		{`{"name__icontains": "%_X"}`, "2"},
		{`{"name__startswith": "An"}`, "1"},
		{`{"name__startswith": "50%_"}`, "2"},
		{`{"name__startswith": "%"}`, ""},
		{`{"name__istartswith": "an"}`, "1 3"},
		{`{"name__endswith": "na"}`, "1"},
		{`{"name__endswith": "x\\"}`, "2"},
		{`{"name__endswith": ""}`, "1 2 3 4"},
		{`{"name__iendswith": "NE"}`, "3"},
		{`{"id__contains": 2}`, "2"},
		{`{"code": "abc"}`, "1"},
		{`{"code__isnull": true}`, "3"},
		{`{"code__isnull": false}`, "1 2 4"},
		{`{"code": null}`, "3"},
		{`{"tag__x": "y"}`, "2"},
		{`{"tag__x__in": ["x", "z"]}`, "1 4"},
		{`{"active": true}`, "1 4"},
		{`{"active": false}`, "2"},
		{`{"active__in": [true]}`, "1 4"},
		{`{"price": 1.5}`, "1"},
		{`{"price": "1.50"}`, "1"},
		{`{"price__lt": 0}`, "4"},
		{`{"price__in": [20.00, -3.25]}`, "2 4"},
		{`{"born": "2026-01-01"}`, "1"},
		{`{"born__gte": "2025-12-29"}`, "1 2"},
		{`{"born__year": 2025}`, "2"},
		{`{"born__year__gte": 2025}`, "1 2"},
		{`{"born__year__in": [2024, 2026]}`, "1 4"},
		{`{"born__month": 6}`, "4"},
		{`{"born__quarter": 2}`, "4"},
		{`{"born__quarter__range": [3, 4]}`, "2"},
		{`{"born__day": 29}`, "2"},
		{`{"born__week": 1}`, "1 2"},
		{`{"born__week_day": 1}`, "4"},
		{`{"born__week_day": 5}`, "1"},
		{`{"born__year__isnull": true}`, "3"},
		{`{"opens__hour": 12}`, "2"},
		{`{"seen__hour": 1}`, "2"},
		{`{"seen__minute__gt": 30}`, "4"},
		{`{"seen__second": 15}`, "1"},
		{`{"seen__date": "2026-01-01"}`, "1 2"},
		{`{"seen__date__lt": "2026-01-01"}`, "4"},
		{`{"seen__date__in": ["2024-06-02"]}`, "4"},
		{`{"seen__date__range": ["2024-01-01", "2025-01-01"]}`, "4"},
		{`{"seen__time": "23:59:59"}`, "4"},
		{`{"local__year": 2025}`, "2"},
		{`{"local__hour__lt": 12}`, "1"},
		{`{"uid": "00000000-0000-0000-0000-00000000000a"}`, "4"},
		{`{"uid__in": ["00000000-0000-0000-0000-000000000001"]}`, "1"},
		{`{"uid__endswith": "2"}`, "2"},
		{`{"extra__isnull": true, "name__startswith": "A"}`, "3"},
		{`{"cqrs_revision": 0, "id__gt": 3}`, "4"},
	}
	for _, r := range rigs(t) {
		for _, tt := range tests {
			if have := r.ids(t, tt.filter); have != tt.want {
				t.Errorf("%s: %s selects %q, want %q", r.dialect, tt.filter, have, tt.want)
			}
		}
	}
}

func TestPostgresValues(t *testing.T) {
	t.Parallel()
	r := rigs(t)[0]
	for filter, want := range map[string]string{
		`{"seen": "2026-01-01T08:30:15.5Z"}`:          "1",
		`{"seen__lt": "2026-01-01 03:30:00+02:00"}`:   "4",
		`{"seen__gte": "2026-01-01 01:30:00"}`:        "1 2",
		`{"seen__in": ["2026-01-01T01:30:00+00:00"]}`: "2",
		`{"extra": {"a": 1.0}}`:                       "1",
		`{"plain": [1]}`:                              "2",
		`{"sizes": "{1,2}"}`:                          "1",
		`{"uid": "0000000000000000000000000000000A"}`: "4",
	} {
		if have := r.ids(t, filter); have != want {
			t.Errorf("%s selects %q, want %q", filter, have, want)
		}
	}
}

// A filter that cannot be is refused before anything is sent, in words that name
// the field and the lookup.
func TestFaultyFiltersAreRefused(t *testing.T) {
	t.Parallel()
	tests := []struct {
		filter string
		want   []string
	}{
		{``, []string{"not a JSON object"}},
		{`[1]`, []string{"not a JSON object"}},
		{`{"id": }`, []string{"not a JSON object"}},
		{`{"nome": 1}`, []string{`unknown field "nome": table`, "id, name"}},
		{`{"nome__gt": 1}`, []string{`unknown field "nome"`, `lookup "gt"`}},
		{`{"id__regex": 1}`, []string{`field "id" has no lookup "regex"`, "exact, iexact"}},
		{`{"id__gt__lt": 1}`, []string{`field "id" has no lookup "gt__lt"`}},
		{`{"name__owner__id": 1}`, []string{`field "name" has no lookup "owner__id"`}},
		{`{"born__year__contains": 1}`, []string{`field "born" has no lookup "contains"`}},
		{`{"id__year": 1}`, []string{`field "id"`, `no lookup "year"`}},
		{`{"born__hour": 1}`, []string{`field "born"`, `no lookup "hour"`}},
		{`{"born__year": "x"}`, []string{"born__year", "whole number"}},
		{`{"id__in": 1}`, []string{"id__in", "use a list"}},
		{`{"id__in": [[1]]}`, []string{"id__in", "use a text, a number"}},
		{`{"id__range": [1]}`, []string{"id__range", "the least and the largest"}},
		{`{"id__isnull": 1}`, []string{"id__isnull", "true or false"}},
		{`{"id__gt": null}`, []string{"id__gt", "isnull"}},
		{`{"id": {"a": 1}}`, []string{"id: ", "use a text, a number"}},
		{`{"name": "a\u0000b"}`, []string{"U+0000"}},
		{`{"nome": 1, "id__regex": 2}`, []string{`"nome"`, `"regex"`}},
	}
	for _, r := range rigs(t) {
		for _, tt := range tests {
			_, err := lookup.Compile(r.dialect, r.table, tt.filter, 1)
			if !errors.Is(err, lookup.ErrFilter) {
				t.Errorf("%s: %s gives %v, want ErrFilter", r.dialect, tt.filter, err)
				continue
			}
			for _, text := range tt.want {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%s: %s: error lacks %q: %v", r.dialect, tt.filter, text, err)
				}
			}
		}
	}
}

// Nothing of a filter becomes SQL: what was tried is compared as a value or
// refused as a name, and the table still has its rows.
func TestInjection(t *testing.T) {
	t.Parallel()
	attempts := []string{
		`' OR 1=1 --`, `'; DROP TABLE item; --`, `\' OR 1=1 --`, `") OR 1=1 --`, `%' OR '1'='1`, `{a","b}`,
		`"},{"`, `$1`, `?1`, `1); DELETE FROM item; --`, `x' UNION SELECT id FROM item --`, `\\`, `"`,
	}
	for _, r := range rigs(t) {
		for _, text := range attempts {
			quoted := fmt.Sprintf("%q", text)
			for _, op := range []string{"name", "name__iexact", "name__startswith", "name__iendswith", "name__icontains"} {
				if have := r.ids(t, `{"`+op+`": `+quoted+`}`); have != "" && !strings.Contains(`50%_x\`, strings.ReplaceAll(text, `\\`, `\`)) {
					t.Errorf("%s: %s %s selects %q", r.dialect, op, quoted, have)
				}
			}
			if have := r.ids(t, `{"name__in": [`+quoted+`]}`); have != "" {
				t.Errorf("%s: name__in %s selects %q", r.dialect, quoted, have)
			}
			name := `{` + fmt.Sprintf("%q", text) + `: 1}`
			if _, err := lookup.Compile(r.dialect, r.table, name, 1); !errors.Is(err, lookup.ErrFilter) {
				t.Errorf("%s: the name %s gives %v, want ErrFilter", r.dialect, quoted, err)
			}
			name = `{` + fmt.Sprintf("%q", "id__"+text) + `: 1}`
			if _, err := lookup.Compile(r.dialect, r.table, name, 1); !errors.Is(err, lookup.ErrFilter) {
				t.Errorf("%s: the lookup %s gives %v, want ErrFilter", r.dialect, quoted, err)
			}
		}
		var n int
		if err := r.db.QueryRowContext(t.Context(), "SELECT count(*) FROM item").Scan(&n); err != nil || n != 4 {
			t.Errorf("%s: %d rows are left (%v), want 4", r.dialect, n, err)
		}
	}
}

// Placeholders are numbered from where the statement says, so that a filter fits
// behind other parameters.
func TestPlaceholders(t *testing.T) {
	t.Parallel()
	for _, r := range rigs(t) {
		c, err := lookup.Compile(r.dialect, r.table, `{"id__range": [1, 2], "name__isnull": false, "name": "x"}`, 4)
		if err != nil {
			t.Fatal(err)
		}
		for _, number := range []int{4, 5, 6} {
			if mark := r.dialect.Placeholder(number); strings.Count(c.SQL, mark) != 1 {
				t.Errorf("%s: %s has no %s", r.dialect, c.SQL, mark)
			}
		}
		if diff := cmp.Diff([]any{"1", "2", "x"}, c.Args); diff != "" {
			t.Errorf("%s: arguments (-want +have):\n%s", r.dialect, diff)
		}
	}
}
