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
	switch n {
	case MySQL:
		name := n.QuoteText(table)
		return []Step{
			{SQL: "INSERT IGNORE INTO replica_locks (replica) VALUES (" + name + ")"},
			{SQL: "SELECT 1 FROM replica_locks WHERE replica = " + name + " FOR UPDATE"},
			clear,
		}
	case Postgres:
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

// ReplicaScan builds the statements for a table with these key columns and other
// columns, whose names on the wire are given, too.
func (n Name) ReplicaScan(table string, keys, others []Column, wire []string) ReplicaScan {
	e := EntityTable{Table: table, Keys: keys}
	switch n {
	case MySQL:
		return mysqlReplicaScan(mysqlBuilder{e}, others)
	case SQLite:
		return sqliteReplicaScan(sqliteBuilder{EntityTable: e, prefix: "t."}, others)
	}
	return postgresReplicaScan(postgresBuilder{EntityTable: e}, others, wire)
}

// replicaScan fills in what the dialects have in common.
func (n Name) replicaScan(table, columns, keys, behind, find, data string) ReplicaScan {
	from := "SELECT " + columns + " FROM " + n.Quote(table) + " t "
	order := "ORDER BY " + keys + " LIMIT " + n.Placeholder(1)
	if data == "" {
		data = "NULL"
	}
	return ReplicaScan{
		First:    from + order,
		Next:     from + "WHERE " + behind + " " + order,
		Find:     strings.ReplaceAll(find, "{columns}", columns),
		FindRows: strings.ReplaceAll(find, "{columns}", columns+", "+data),
		Count:    "SELECT count(*) FROM " + n.Quote(table),
	}
}

// postgresReplicaScan: each key is looked up by the index, whatever the planner
// thinks of the table: right after a load it knows nothing of it.
func postgresReplicaScan(b postgresBuilder, others []Column, wire []string) ReplicaScan {
	keys := b.rowKeys()
	list := strings.Join(keys, ", ")
	matches := make([]string, len(keys))
	for i, part := range b.castKeys("m.k") {
		matches[i] = keys[i] + " = " + part
	}
	pk := "to_json(" + b.rowText() + ")::text"
	if len(keys) == 1 {
		value := b.value(keys[0], b.Keys[0]) // in the form of the master's
		if b.Keys[0].Base == "character" {
			value += "::text" // without the spaces it is filled up with
		}
		pk = "to_json(" + value + ")::text"
	}
	var members []string
	for i, c := range others {
		members = append(members, b.value("t."+Postgres.QuoteColumn(c.Name), c)+" AS "+Postgres.QuoteColumn(wire[i]))
	}
	data := ""
	if len(members) > 0 {
		data = postgresObject(members)
	}
	return Postgres.replicaScan(b.Table, b.rowText()+", "+pk+", t.cqrs_revision", list,
		"("+list+") > ("+strings.Join(b.castKeys("$2::text"), ", ")+")",
		"SELECT f.* FROM unnest($1::text[]) m (k), LATERAL (SELECT {columns} FROM "+Postgres.Quote(b.Table)+" t WHERE "+
			strings.Join(matches, " AND ")+" OFFSET 0) f", data)
}

func sqliteReplicaScan(b sqliteBuilder, others []Column) ReplicaScan {
	var matches []string
	for i, part := range b.partsOf("m.value") {
		matches = append(matches, b.column(b.Keys[i])+" = "+part)
	}
	return SQLite.replicaScan(b.Table, b.keyText()+", "+b.pk()+", t.cqrs_revision", b.keys(),
		"("+b.keys()+") > ("+strings.Join(b.partsOf("?2"), ", ")+")",
		"SELECT {columns} FROM json_each(?1) m CROSS JOIN "+SQLite.Quote(b.Table)+" t ON "+strings.Join(matches, " AND "),
		strings.TrimPrefix(b.list(others), ", "))
}

// AmongKeys is the condition that a row t has one of the keys of several columns
// whose texts are in the list parameter.
func (n Name) AmongKeys(keys []Column, parameter string) string {
	e := EntityTable{Keys: keys}
	switch n {
	case MySQL:
		b := mysqlBuilder{e}
		return "(" + strings.Join(b.columns(), ", ") + ") IN (SELECT " + strings.Join(b.partsOf("lockstep_v"), ", ") + " FROM " + mysqlTexts(parameter) + ")"
	case SQLite:
		b := sqliteBuilder{EntityTable: e, prefix: "t."}
		return "(" + b.keys() + ") IN (SELECT " + strings.Join(b.partsOf("m.value"), ", ") + " FROM json_each(" + parameter + ") m)"
	}
	b := postgresBuilder{EntityTable: e}
	return "(" + strings.Join(b.rowKeys(), ", ") + ") IN (SELECT " + strings.Join(b.castKeys("m.k"), ", ") +
		" FROM unnest(" + parameter + "::text[]) m (k))"
}
