package dialect

import (
	"context"
	"fmt"
	"slices"
)

// IsUnique reports whether these columns, in any order, are all that a primary
// key or a unique index of the table is over, so that no two rows have the same.
func (n Name) IsUnique(ctx context.Context, q Querier, table string, columns []string) (bool, error) {
	_, args := n.columns(table)
	query := map[Name]string{Postgres: postgresUnique, MySQL: mysqlUnique, SQLite: sqliteUnique}[n]
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return false, fmt.Errorf("read the indexes of table %s: %w", table, err)
	}
	defer func() { _ = rows.Close() }()
	indexes := map[string][]string{}
	for rows.Next() {
		var index, column string
		if err := rows.Scan(&index, &column); err != nil {
			return false, fmt.Errorf("read the indexes of table %s: %w", table, err)
		}
		indexes[index] = append(indexes[index], column)
	}
	if err := rows.Err(); err != nil {
		return false, fmt.Errorf("read the indexes of table %s: %w", table, err)
	}
	want := slices.Sorted(slices.Values(columns))
	for _, index := range indexes {
		if slices.Equal(want, slices.Sorted(slices.Values(index))) {
			return true, nil
		}
	}
	return false, nil
}

// postgresUnique: one row a column of each index that holds for all rows. Columns
// that an index only carries along (INCLUDE) are no part of its key.
const postgresUnique = `
SELECT u.indexrelid::text, a.attname
FROM pg_index u
CROSS JOIN LATERAL unnest(u.indkey::int2[]) WITH ORDINALITY AS k (attnum, ord)
JOIN pg_attribute a ON a.attrelid = u.indrelid AND a.attnum = k.attnum
WHERE u.indrelid = to_regclass($1) AND u.indisunique AND u.indpred IS NULL AND u.indexprs IS NULL AND k.ord <= u.indnkeyatts`

const sqliteUnique = `
SELECT i.name, coalesce(x.name, '') -- an expression has none
FROM pragma_index_list(?1) i, pragma_index_info(i.name) x
WHERE i."unique" = 1 AND i.partial = 0`

// mysqlUnique: an index over a part of a column (sub_part) or an expression says
// nothing about the column.
const mysqlUnique = `
SELECT s.index_name, IF(s.sub_part IS NULL, COALESCE(s.column_name, ''), '')
FROM information_schema.statistics s
WHERE s.table_schema = COALESCE(?, DATABASE()) AND s.table_name = ? AND s.non_unique = 0`
