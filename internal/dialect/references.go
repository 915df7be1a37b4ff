package dialect

import (
	"context"
	"fmt"
	"strings"
)

// Reference is a foreign key of one column.
type Reference struct {
	Column string
	// Table is the identity, as of [Name.LoadReferences], of the table referred to.
	Table string
	// To is the column there. Empty means the primary key.
	To string
}

// LoadReferences reads a table's foreign keys of one column each from the
// catalogue. identity is one text for all spellings of the table's name.
func (n Name) LoadReferences(ctx context.Context, q Querier, table string) (identity string, references []Reference, err error) {
	query, args := n.references(table)
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return "", nil, fmt.Errorf("read the foreign keys of table %s: %w", table, err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var self string
		var r Reference
		if err := rows.Scan(&self, &r.Column, &r.Table, &r.To); err != nil {
			return "", nil, fmt.Errorf("read the foreign keys of table %s: %w", table, err)
		}
		if self != "" {
			identity = self
		} else {
			references = append(references, r)
		}
	}
	if err := rows.Err(); err != nil {
		return "", nil, fmt.Errorf("read the foreign keys of table %s: %w", table, err)
	}
	return identity, references, nil
}

// references returns the query for a table's foreign keys.
func (n Name) references(table string) (query string, args []any) {
	switch n {
	case MySQL:
		var schema any
		name := table
		if s, rest, ok := strings.Cut(table, "."); ok {
			schema, name = s, rest
		}
		return mysqlReferences, []any{schema, name, schema, name}
	case SQLite:
		return sqliteReferences, []any{table}
	}
	return postgresReferences, []any{n.Quote(table)}
}

// The first row of each is about the table itself.
const (
	postgresReferences = `
SELECT to_regclass($1)::oid::text, '', '', ''
UNION ALL
SELECT '', a.attname, c.confrelid::text, f.attname
FROM pg_constraint c
JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
JOIN pg_attribute f ON f.attrelid = c.confrelid AND f.attnum = c.confkey[1]
WHERE c.conrelid = to_regclass($1) AND c.contype = 'f' AND cardinality(c.conkey) = 1`

	mysqlReferences = `
SELECT concat(COALESCE(?, DATABASE()), '.', ?), '', '', ''
UNION ALL
SELECT '', k.column_name, concat(k.referenced_table_schema, '.', k.referenced_table_name), k.referenced_column_name
FROM information_schema.key_column_usage k
WHERE k.table_schema = COALESCE(?, DATABASE()) AND k.table_name = ? AND k.referenced_table_name IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM information_schema.key_column_usage o
                  WHERE o.table_schema = k.table_schema AND o.table_name = k.table_name
                    AND o.constraint_name = k.constraint_name AND o.ordinal_position = 2)`

	sqliteReferences = `
SELECT lower(?1), '', '', ''
UNION ALL
SELECT '', f."from", lower(f."table"), COALESCE(f."to", '')
FROM pragma_foreign_key_list(?1) f
WHERE (SELECT count(*) FROM pragma_foreign_key_list(?1) o WHERE o.id = f.id) = 1`
)
