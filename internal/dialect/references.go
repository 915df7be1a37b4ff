package dialect

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Reference is a foreign key.
type Reference struct {
	Columns []string
	// Table is the identity, as of [Name.LoadReferences], of the table referred to,
	// and Name its name as SQL.
	Table, Name string
	// To are the columns there, in the order of Columns.
	To []string
	// Cascades: rows go with those they refer to.
	Cascades bool
}

// LoadReferences reads a table's foreign keys from the catalogue. identity is one
// text for all spellings of the table's name.
func (n Name) LoadReferences(ctx context.Context, q Querier, table string) (identity string, references []Reference, err error) {
	query, args := n.references(table)
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return "", nil, fmt.Errorf("read the foreign keys of table %s: %w", table, err)
	}
	defer func() { _ = rows.Close() }()
	last := ""
	for rows.Next() {
		var self, constraint, column, other, schema, name, to string
		var place int
		var cascades bool
		if err := rows.Scan(&self, &constraint, &column, &other, &schema, &name, &to, &place, &cascades); err != nil {
			return "", nil, fmt.Errorf("read the foreign keys of table %s: %w", table, err)
		}
		if self != "" {
			identity = self
			continue
		}
		if len(references) == 0 || constraint != last {
			references, last = append(references, Reference{Table: other, Name: n.qualified(schema, name), Cascades: cascades}), constraint
		}
		r := &references[len(references)-1]
		r.Columns, r.To = append(r.Columns, column), append(r.To, to)
	}
	if err := rows.Err(); err != nil {
		return "", nil, fmt.Errorf("read the foreign keys of table %s: %w", table, err)
	}
	return identity, slices.DeleteFunc(references, func(r Reference) bool { return slices.Contains(r.To, "") }), nil
}

// qualified quotes a name from the catalogue, which may hold dots.
func (n Name) qualified(schema, name string) string {
	if schema == "" {
		return n.QuoteColumn(name)
	}
	return n.QuoteColumn(schema) + "." + n.QuoteColumn(name)
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

// The first row of each is about the table itself, the others are the columns of
// its foreign keys in their order.
const (
	// A foreign key to a partitioned table has copies for its partitions, which
	// are no conditions of their own.
	postgresReferences = `
SELECT to_regclass($1)::oid::text, '', '', '', '', '', '', 0, false
UNION ALL
SELECT '', c.conname, a.attname, c.confrelid::text, s.nspname, t.relname, f.attname, k.place, c.confdeltype = 'c'
FROM pg_constraint c
CROSS JOIN LATERAL unnest(c.conkey, c.confkey) WITH ORDINALITY AS k (own, other, place)
JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.own
JOIN pg_attribute f ON f.attrelid = c.confrelid AND f.attnum = k.other
JOIN pg_class t ON t.oid = c.confrelid
JOIN pg_namespace s ON s.oid = t.relnamespace
WHERE c.conrelid = to_regclass($1) AND c.contype = 'f'
  AND NOT EXISTS (SELECT FROM pg_constraint o WHERE o.oid = c.conparentid AND o.conrelid = c.conrelid)
ORDER BY 2, 8`

	mysqlReferences = `
SELECT concat(COALESCE(?, DATABASE()), '.', ?), '', '', '', '', '', '', 0, 0
UNION ALL
SELECT '', k.constraint_name, k.column_name, concat(k.referenced_table_schema, '.', k.referenced_table_name),
       k.referenced_table_schema, k.referenced_table_name, k.referenced_column_name, k.ordinal_position,
       EXISTS (SELECT 1 FROM information_schema.referential_constraints c
               WHERE c.constraint_schema = k.constraint_schema AND c.constraint_name = k.constraint_name
                 AND c.table_name = k.table_name AND c.delete_rule = 'CASCADE')
FROM information_schema.key_column_usage k
WHERE k.table_schema = COALESCE(?, DATABASE()) AND k.table_name = ? AND k.referenced_table_name IS NOT NULL
ORDER BY 2, 8`

	// Without columns of the other table its primary key is meant, and without such
	// a table nothing is.
	sqliteReferences = `
SELECT lower(?1), '', '', '', '', '', '', 0, 0
UNION ALL
SELECT '', f.id, f."from", lower(f."table"), '', f."table",
       COALESCE(f."to", (SELECT p.name FROM pragma_table_info(f."table") p WHERE p.pk = f.seq + 1), ''), f.seq, f.on_delete = 'CASCADE'
FROM pragma_foreign_key_list(?1) f
ORDER BY 2, 8`
)

// MaxReferred is how many rows one statement of [Name.Referred] may ask for.
const MaxReferred = 100

// Referred returns the query for which of some rows are there that a foreign key
// refers to. Its result are their places from 0. On PostgreSQL its parameters are
// one list of texts ([Name.Texts]) for each of the columns, which have the types of
// those that refer; elsewhere the values, row by row.
func (n Name) Referred(r Reference, columns []Column, rows int) string {
	terms := make([]string, len(r.To))
	if n == Postgres {
		var lists, names []string
		for i, to := range r.To {
			parameter := "$" + strconv.Itoa(i+1)
			lists, names = append(lists, parameter+"::text[]"), append(names, MemberColumn+strconv.Itoa(i))
			terms[i] = fmt.Sprintf("p.%s = v.%s::%s", n.QuoteColumn(to), names[i], columns[i].Type)
		}
		return fmt.Sprintf("SELECT v.n - 1 FROM unnest(%s) WITH ORDINALITY AS v (%s, n) WHERE EXISTS (SELECT FROM %s p WHERE %s)",
			strings.Join(lists, ", "), strings.Join(names, ", "), r.Name, strings.Join(terms, " AND "))
	}
	for i, to := range r.To {
		terms[i] = "p." + n.QuoteColumn(to) + " = ?"
	}
	exists := fmt.Sprintf("FROM (SELECT 1 AS one) one WHERE EXISTS (SELECT 1 FROM %s p WHERE %s)", r.Name, strings.Join(terms, " AND "))
	questions := make([]string, rows)
	for i := range questions {
		questions[i] = "SELECT " + strconv.Itoa(i) + " " + exists
	}
	return strings.Join(questions, "\nUNION ALL ")
}
