package dialect

import "strings"

// The statements of a scan. Rows are not locked: a transaction that writes is
// the only one that does.
const (
	sqliteScanRows = `
SELECT {columns}
FROM {table} AS t
WHERE {from} AND ({condition})
ORDER BY t.{key}
LIMIT ?1`

	sqliteScanCount = `
SELECT count(*)
FROM {table} AS t
WHERE ?1 IS NULL AND ?2 IS NULL AND ({condition})`

	// sqliteSync reads what [sqliteSave] returns, and changes nothing.
	sqliteSync = `
SELECT {table}.{key}, {table}.cqrs_revision, {table}.cqrs_updated{fields}
FROM {table}
WHERE {table}.{key} IN (SELECT value FROM json_each(?1)) AND ?2 IS NOT NULL`
)

// SQLiteBeginWrite takes the write lock of a transaction that was begun without
// it. It changes nothing.
const SQLiteBeginWrite = `DELETE FROM outbox WHERE id = -1`

func sqliteScan(s Scan) ScanSQL {
	n := SQLite
	from := "?2 IS NULL"
	if s.From {
		from = "t." + n.QuoteColumn(s.Key.Name) + " > ?2"
	}
	build := func(template, columns string) string {
		return strings.NewReplacer(
			"{table}", n.Quote(s.Table), "{key}", n.QuoteColumn(s.Key.Name), "{from}", from,
			"{condition}", s.Condition, "{columns}", strings.ReplaceAll(columns, "{key}", n.QuoteColumn(s.Key.Name)),
		).Replace(template)
	}
	var fields strings.Builder
	for _, c := range s.Fields {
		fields.WriteString(", t." + n.QuoteColumn(c.Name))
	}
	return ScanSQL{
		Keys:     build(sqliteScanRows, "CAST(t.{key} AS TEXT)"),
		Rows:     build(sqliteScanRows, "t.{key}, t.cqrs_revision, t.cqrs_updated"+fields.String()),
		Versions: build(sqliteScanRows, "CAST(t.{key} AS TEXT), t.{key}, t.cqrs_revision"),
		Count:    build(sqliteScanCount, ""),
	}
}
