package dialect

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Column is one column as the catalogue describes it.
type Column struct {
	Name string
	// Type is the type as the database spells it, fit for a cast: "numeric(10,2)",
	// "timestamp with time zone", "text[]", "public.mood".
	Type string
	// Base is Type without domain, length and precision, in lower case. For a
	// domain it is the type beneath.
	Base       string
	NotNull    bool
	HasDefault bool
	// Collation is how MySQL compares a text column; empty elsewhere.
	Collation string
	// Loose names the type or collation by which PostgreSQL or SQLite takes different
	// texts of the column for one value; empty where none does, and on MySQL.
	Loose string
	// Generated columns cannot be written.
	Generated bool
	// PrimaryKey is the column's place in the primary key from 1, or 0.
	PrimaryKey int
	// Unique says that this column alone is unique: the table's one-column
	// primary key or a unique index on it and nothing else.
	Unique bool
}

// IsTinyBool reports whether the column is a tinyint(1): MySQL's boolean, which it keeps as
// a number.
func (c *Column) IsTinyBool() bool { return strings.HasPrefix(c.Type, "tinyint(1)") }

// Table is what the catalogue says about a table, columns in order.
type Table struct {
	Name    string
	Columns []Column
}

// Column returns the column of that name, nil when the table has none.
func (t *Table) Column(name string) *Column {
	i := slices.IndexFunc(t.Columns, func(c Column) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	return &t.Columns[i]
}

// ColumnNames returns the names in order.
func (t *Table) ColumnNames() []string {
	names := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		names[i] = c.Name
	}
	return names
}

// ErrNoTable reports a table that the catalogue does not have.
var ErrNoTable = errors.New("no such table")

// LoadTable reads a table's columns from the catalogue. The name may have a
// schema; without one the connection's search path finds it,
// or on MySQL its current database. A missing table is
// ErrNoTable.
func (n Name) LoadTable(ctx context.Context, q Querier, table string) (*Table, error) {
	query, args := n.columns(table)
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("read the catalogue of table %s: %w", table, err)
	}
	defer func() { _ = rows.Close() }()
	t := &Table{Name: table}
	for rows.Next() {
		var c Column
		if err := rows.Scan(&c.Name, &c.Type, &c.Base, &c.NotNull, &c.HasDefault, &c.Generated, &c.PrimaryKey, &c.Unique, &c.Collation, &c.Loose); err != nil {
			return nil, fmt.Errorf("read the catalogue of table %s: %w", table, err)
		}
		c.Base = strings.ToLower(c.Base)
		t.Columns = append(t.Columns, c)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the catalogue of table %s: %w", table, err)
	}
	if len(t.Columns) == 0 {
		return nil, fmt.Errorf("table %s: %w", table, ErrNoTable)
	}
	return t, nil
}

// columns returns the query for a table's columns.
func (n Name) columns(table string) (query string, args []any) {
	switch n {
	case MySQL:
		schema, name, ok := strings.Cut(table, ".")
		if !ok {
			return mysqlColumns, []any{nil, table}
		}
		return mysqlColumns, []any{schema, name}
	case SQLite:
		return sqliteColumns, []any{table}
	}
	return postgresColumns, []any{n.Quote(table)}
}

// postgresColumns: format_type spells a type as a cast needs it; the recursive
// part of a domain is left to the server (typbasetype is one level, and domains
// over domains are followed by base).
const postgresColumns = `
WITH RECURSIVE base (attnum, typid) AS (
    SELECT attnum, atttypid FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT b.attnum, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.typid WHERE t.typtype = 'd'
)
SELECT a.attname,
       format_type(a.atttypid, a.atttypmod),
       format_type(b.typid, NULL),
       a.attnotnull OR t.typnotnull,
       a.atthasdef OR a.attidentity <> '',
       a.attgenerated <> '' OR a.attidentity = 'a',
       COALESCE(array_position(pk.indkey::int2[], a.attnum) + 1, 0),
       EXISTS (SELECT 1 FROM pg_index u
               WHERE u.indrelid = a.attrelid AND u.indisunique AND u.indpred IS NULL
                 AND u.indnkeyatts = 1 AND u.indkey[0] = a.attnum),
       '',
       CASE WHEN bt.typname = 'citext' THEN 'citext' WHEN NOT co.collisdeterministic THEN co.collname ELSE '' END
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
JOIN base b ON b.attnum = a.attnum
JOIN pg_type bt ON bt.oid = b.typid AND bt.typtype <> 'd'
LEFT JOIN pg_index pk ON pk.indrelid = a.attrelid AND pk.indisprimary
LEFT JOIN pg_collation co ON co.oid = a.attcollation
WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum`

// sqliteColumns: hidden 2 and 3 are generated columns. An INTEGER PRIMARY KEY
// fills itself, so it counts as having a default. A column's collation shows in its
// indexes alone.
const sqliteColumns = `
SELECT c.name,
       c.type,
       lower(CASE WHEN instr(c.type, '(') > 0 THEN trim(substr(c.type, 1, instr(c.type, '(') - 1)) ELSE c.type END),
       c."notnull" <> 0 OR c.pk > 0,
       c.dflt_value IS NOT NULL OR (c.pk = 1 AND upper(c.type) = 'INTEGER'),
       c.hidden IN (2, 3),
       c.pk,
       (c.pk = 1 AND (SELECT count(*) FROM pragma_table_xinfo(?1) k WHERE k.pk > 0) = 1)
         OR EXISTS (SELECT 1 FROM pragma_index_list(?1) i
                    WHERE i."unique" = 1 AND i.partial = 0
                      AND (SELECT group_concat(x.name) FROM pragma_index_info(i.name) x) = c.name),
       '',
       COALESCE((SELECT x.coll FROM pragma_index_list(?1) i, pragma_index_xinfo(i.name) x
                 WHERE i."unique" = 1 AND x.key = 1 AND x.name = c.name AND x.coll <> 'BINARY' LIMIT 1), '')
FROM pragma_table_xinfo(?1) c
ORDER BY c.cid`
