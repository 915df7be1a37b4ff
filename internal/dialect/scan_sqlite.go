package dialect

import "strings"

// The statements of a scan. Rows are not locked: a transaction that writes is
// the only one that does.
const (
	sqliteScanRows = `
SELECT {columns}
FROM {table} AS t
WHERE {from} AND ({condition}) AND {inside}
ORDER BY {keys}
LIMIT ?1`

	sqliteScanCount = `
SELECT count(*)
FROM {table} AS t
WHERE ?1 IS NULL AND ?2 IS NULL AND ({condition}) AND {inside}`
)

// SQLiteBeginWrite takes the write lock of a transaction that was begun without
// it. It changes nothing.
const SQLiteBeginWrite = `DELETE FROM outbox WHERE id = -1`

func sqliteScan(s Scan) ScanSQL {
	b := sqliteBuilder{EntityTable: s.EntityTable, prefix: "t."}
	from := "?2 IS NULL"
	if s.From {
		from = "(" + b.keys() + ") > (" + strings.Join(b.partsOf("?2"), ", ") + ")"
	}
	build := func(template, columns string) string {
		return strings.NewReplacer(
			"{table}", SQLite.Quote(s.Table), "{keys}", b.keys(), "{from}", from,
			"{condition}", s.Condition, "{inside}", b.inside()+b.keyNotNull(), "{columns}", columns,
		).Replace(template)
	}
	version := b.keys() + ", t.cqrs_revision, t.cqrs_updated, 1, 0"
	return ScanSQL{
		Keys:     build(sqliteScanRows, b.keyText()),
		Rows:     build(sqliteScanRows, version+b.list(s.Fields)),
		Versions: build(sqliteScanRows, b.keyText()+", "+b.pk()+", t.cqrs_revision"),
		Count:    build(sqliteScanCount, ""),
	}
}

// keyNotNull leaves out rows that have no key: SQLite's primary keys may be null.
func (b sqliteBuilder) keyNotNull() (conditions string) {
	for _, k := range b.Keys {
		conditions += " AND " + b.column(k) + " IS NOT NULL"
	}
	return conditions
}
