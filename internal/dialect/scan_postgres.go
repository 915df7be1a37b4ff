package dialect

import (
	"strings"

	"github.com/lockstep-go/lockstep/event"
)

// The statements of a scan. Paging is by key: by offset, rows would be skipped
// while others are deleted. The first comparison gives $2 its type and reads all
// keys when there is nothing to start behind.
const (
	postgresScanKeys = `
SELECT {text}
FROM {table} t
WHERE {from} AND ({condition}) AND {inside}
ORDER BY {keys}
LIMIT $1
FOR NO KEY UPDATE OF t`

	postgresScanRows = `
SELECT {text}, {pk}, {data}
FROM {table} t
WHERE {from} AND ({condition}) AND {inside}
ORDER BY {keys}
LIMIT $1`

	postgresScanVersions = `
SELECT {text}, {pk}, t.cqrs_revision
FROM {table} t
WHERE {from} AND ({condition}) AND {inside}
ORDER BY {keys}
LIMIT $1`

	postgresScanCount = `
SELECT count(*)
FROM {table} t
WHERE $1::bigint IS NULL AND $2::text IS NULL AND ({condition}) AND {inside}`
)

func postgresScan(s Scan) ScanSQL {
	n := Postgres
	b := postgresBuilder{EntityTable: s.EntityTable, signal: event.Sync}
	keys := b.rowKeys()
	from := "$2::text IS NULL"
	if s.From {
		from = "(" + strings.Join(keys, ", ") + ") > (" + strings.Join(b.castKeys("$2::text"), ", ") + ")"
	}
	pk := "to_json(" + b.rowText() + ")::text"
	if len(keys) == 1 {
		pk = "to_json(" + b.value(keys[0], b.Keys[0]) + ")::text"
	}
	build := func(template string) string {
		return strings.NewReplacer(
			"{table}", n.Quote(s.Table), "{text}", b.rowText(), "{keys}", strings.Join(keys, ", "), "{pk}", pk,
			"{from}", from, "{condition}", s.Condition, "{inside}", b.inside()+b.keyNotNull(), "{data}", b.rowData(),
		).Replace(template)
	}
	return ScanSQL{
		Keys: build(postgresScanKeys), Rows: build(postgresScanRows),
		Versions: build(postgresScanVersions), Count: build(postgresScanCount),
	}
}

// keyNotNull leaves out rows that have no key, where a unique column may be null.
func (b postgresBuilder) keyNotNull() (conditions string) {
	for _, k := range b.Keys {
		if !k.NotNull {
			conditions += " AND t." + Postgres.QuoteColumn(k.Name) + " IS NOT NULL"
		}
	}
	return conditions
}

// rowData is the expression for the data of a row t, as an event has it.
func (b postgresBuilder) rowData() string {
	var members []string
	for _, c := range b.Fields {
		name := Postgres.QuoteColumn(c.Name)
		members = append(members, b.value("t."+name, c)+" AS "+name)
	}
	members = append(members, "t.cqrs_revision AS "+event.FieldRevision,
		postgresTimestamptz("t.cqrs_updated")+" AS "+event.FieldUpdated)
	return postgresObject(members)
}
