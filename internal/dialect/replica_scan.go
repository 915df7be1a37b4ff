package dialect

import "strings"

// Step is one statement of several.
type Step struct {
	SQL string
	// Counts says that the rows it affects are the result.
	Counts bool
}

// ReplicaClear returns the statements that delete all rows of a replica table,
// with no consumer beside them.
func (n Name) ReplicaClear(table string) []Step {
	clear := Step{SQL: "DELETE FROM " + n.Quote(table), Counts: true}
	if n == Postgres {
		return []Step{{SQL: ReplicaBegin([]string{table}, func(string) bool { return true })}, clear}
	}
	return []Step{clear}
}

// ReplicaScan is the statements that read a replica table, in key order.
type ReplicaScan struct {
	// First and Next return pages of keys, as texts and as JSON, with their
	// revisions. First takes how many rows at most; Next takes the key to start
	// behind, too.
	First, Next string
	// Find returns the same for a list of keys, as [Name.Texts] makes it, in any
	// order. Keys of another type than the column's make it fail.
	Find string
	// FindRows is Find with the row's data: on PostgreSQL a JSON object under the
	// wire's names, elsewhere the columns.
	FindRows string
	// Count returns how many rows there are.
	Count string
}

const (
	postgresReplicaColumns = `t.{key}::text, to_json(t.{key})::text, t.cqrs_revision`
	sqliteReplicaColumns   = `CAST(t.{key} AS TEXT), t.{key}, t.cqrs_revision`
)

// ReplicaScan builds the statements for a table with the key column and other
// columns, whose names on the wire are given, too.
func (n Name) ReplicaScan(table string, key Column, others []Column, wire []string) ReplicaScan {
	// On PostgreSQL each key is looked up by the index, whatever the planner thinks
	// of the table: right after a load it knows nothing of it.
	columns, behind := postgresReplicaColumns, "$2::"+keyCast(key)
	find := "SELECT f.* FROM unnest($1::" + keyCast(key) + "[]) k (k), LATERAL (SELECT {columns}{data} FROM {table} t WHERE t.{key} = k.k OFFSET 0) f"
	if n == SQLite {
		columns, behind = sqliteReplicaColumns, "?2"
		find = "SELECT {columns}{data} FROM {table} t WHERE t.{key} IN (SELECT value FROM json_each(?1))"
	}
	data := postgresReplicaData(others, wire)
	if n == SQLite {
		data = strings.Join(n.QuoteAll("t.", names(others)), ", ")
	}
	if len(others) == 0 {
		data = "NULL"
	}
	build := func(format string) string {
		return strings.NewReplacer("{table}", n.Quote(table), "{key}", n.QuoteColumn(key.Name),
			"{limit}", n.Placeholder(1), "{data}", data).
			Replace(strings.ReplaceAll(format, "{columns}", columns))
	}
	return ReplicaScan{
		First:    build("SELECT {columns} FROM {table} t ORDER BY t.{key} LIMIT {limit}"),
		Next:     build("SELECT {columns} FROM {table} t WHERE t.{key} > " + behind + " ORDER BY t.{key} LIMIT {limit}"),
		Find:     build(strings.ReplaceAll(find, "{data}", "")),
		FindRows: build(strings.ReplaceAll(find, "{data}", ", {data}")),
		Count:    "SELECT count(*) FROM " + n.Quote(table),
	}
}

func names(columns []Column) []string {
	list := make([]string, len(columns))
	for i, c := range columns {
		list[i] = c.Name
	}
	return list
}

func postgresReplicaData(columns []Column, wire []string) string {
	var members []string
	for i, c := range columns {
		members = append(members, postgresValue("t."+Postgres.QuoteColumn(c.Name), c)+" AS "+Postgres.QuoteColumn(wire[i]))
	}
	return "(SELECT row_to_json(r.*)::text FROM (SELECT " + strings.Join(members, ", ") + ") r)"
}
