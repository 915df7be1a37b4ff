package dialect

import "strings"

// The statements of a scan. Their parameters are numbered, see [Name.Over]. The
// key to start behind comes as its columns, so that an index finds it: see
// [mysqlBuilder.behind].
const (
	mysqlScanKeys = `
SELECT 0, {keys}
FROM {table} AS t
WHERE {from} AND ({condition}) AND {inside}
ORDER BY {order}
LIMIT ?1
FOR UPDATE`

	mysqlScanRows = `
SELECT {columns}
FROM {table} AS t
WHERE {from} AND ({condition}) AND {inside}
ORDER BY {order}
LIMIT ?1`

	mysqlScanCount = `
SELECT COUNT(*)
FROM {table} AS t
WHERE ?1 IS NULL AND ?2 IS NULL AND ({condition}) AND {inside}`
)

func mysqlScan(s Scan) ScanSQL {
	b := mysqlBuilder{s.EntityTable}
	from := "?2 IS NULL"
	if s.From {
		from = b.behind("?2")
	}
	build := func(template, columns string) string {
		return strings.NewReplacer(
			"{table}", MySQL.Quote(s.Table), "{keys}", b.keys(), "{order}", strings.Join(b.columns(), ", "), "{from}", from,
			"{condition}", s.Condition, "{inside}", b.inside()+b.keyNotNull(), "{columns}", columns,
		).Replace(template)
	}
	return ScanSQL{
		Keys:     build(mysqlScanKeys, ""),
		Rows:     build(mysqlScanRows, "0, "+b.keys()+", t.cqrs_revision, CAST(t.cqrs_updated AS CHAR), 1, 0"+b.values(s.Fields)),
		Versions: build(mysqlScanRows, "0, "+b.keys()+", t.cqrs_revision, CAST(t.cqrs_updated AS CHAR), 1, 0"),
		Count:    build(mysqlScanCount, ""),
	}
}

// keyNotNull leaves out rows that have no key, where a unique column may be null.
func (b mysqlBuilder) keyNotNull() (conditions string) {
	for i, k := range b.Keys {
		if !k.NotNull {
			conditions += " AND " + b.columns()[i] + " IS NOT NULL"
		}
	}
	return conditions
}

func (b mysqlBuilder) columns() []string {
	columns := make([]string, len(b.Keys))
	for i, k := range b.Keys {
		columns[i] = "t." + MySQL.QuoteColumn(k.Name)
	}
	return columns
}

// partOf is a column of a key's text, in a form that the column's index serves.
func (b mysqlBuilder) partOf(text string, i int) string {
	k := b.Keys[i]
	if len(b.Keys) > 1 {
		text = "JSON_UNQUOTE(JSON_EXTRACT(" + text + ", '$[" + itoa(i) + "]'))"
	}
	return mysqlOperand(Lookup{Column: k}, text)
}

func (b mysqlBuilder) partsOf(text string) []string {
	parts := make([]string, len(b.Keys))
	for i := range parts {
		parts[i] = b.partOf(text, i)
	}
	return parts
}

// behind is the condition that a row's key comes after the one with the text.
// Rows of values would not do: no index serves their comparison.
func (b mysqlBuilder) behind(text string) string {
	columns := b.columns()
	condition := ""
	for i := len(columns) - 1; i >= 0; i-- {
		part := b.partOf(text, i)
		if condition == "" {
			condition = columns[i] + " > " + part
			continue
		}
		condition = columns[i] + " >= " + part + " AND (" + columns[i] + " > " + part + " OR (" + condition + "))"
	}
	return "(" + condition + ")"
}

// mysqlReplicaScan returns the columns of the key in place of its text and of the
// JSON, and the others in the form of a master's rows.
func mysqlReplicaScan(b mysqlBuilder, others []Column) ReplicaScan {
	var matches []string
	for i, part := range b.partsOf("lockstep_v") {
		matches = append(matches, b.columns()[i]+" = "+part)
	}
	return MySQL.replicaScan(b.Table, b.keys()+", t.cqrs_revision", strings.Join(b.columns(), ", "),
		b.behind("?2"),
		"SELECT {columns} FROM "+mysqlTexts("?1")+" STRAIGHT_JOIN "+MySQL.Quote(b.Table)+" t ON "+strings.Join(matches, " AND "),
		strings.TrimPrefix(b.values(others), ", "))
}
