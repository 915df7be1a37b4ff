package dialect

import "strings"

// SQLite cannot change and insert in one statement, so the write side reads the
// changed rows back and encodes them itself. The database runs in the process,
// and its one writer at a time is the row lock.
//
// The statements take the keys as a JSON array (?1) and the current time (?2),
// and return the key, cqrs_revision, cqrs_updated and the fields of each row.
const (
	sqliteSave = `
UPDATE {table} AS t
SET cqrs_revision = {next_revision}, cqrs_updated = {next_updated}
WHERE t.{key} IN (SELECT value FROM json_each(?1))
RETURNING {key}, cqrs_revision, cqrs_updated{fields}`

	sqliteDelete = `
DELETE FROM {table}
WHERE {key} IN (SELECT value FROM json_each(?1))
RETURNING {key}, {next_revision}, {next_updated}`

	sqliteNextRevision = `max({row}.cqrs_revision, coalesce((
    SELECT d.revision FROM outbox_tombstones d
    WHERE d.entity = {entity} AND d.key = CAST({row}.{key} AS TEXT)), 0)) + 1`
	sqliteNextUpdated = `max(?2, {row}.cqrs_updated, coalesce((
    SELECT d.deleted_at FROM outbox_tombstones d
    WHERE d.entity = {entity} AND d.key = CAST({row}.{key} AS TEXT)), ''))`
)

// SQLite's statements that are the same for every entity.
const (
	SQLiteInsertOutbox = `INSERT INTO outbox (topic, key, payload, metadata) VALUES (?1, ?2, ?3, ?4)`
	SQLiteBury         = `
INSERT INTO outbox_tombstones (entity, key, revision, deleted_at) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (entity, key) DO UPDATE SET revision = excluded.revision, deleted_at = excluded.deleted_at`
)

// SQLiteEntity builds the statements of an entity.
func SQLiteEntity(e EntityTable) EntitySQL {
	n := SQLite
	var fields strings.Builder
	for _, c := range e.Fields {
		fields.WriteString(", " + n.QuoteColumn(c.Name))
	}
	// A DELETE's RETURNING knows the row by the table's name only.
	build := func(template, row, fields string) string {
		values := strings.NewReplacer(
			"{row}", row,
			"{table}", n.Quote(e.Table),
			"{key}", n.QuoteColumn(e.Key.Name),
			"{entity}", n.QuoteText(e.CQRSID),
			"{fields}", fields,
		)
		revisions := strings.NewReplacer("{next_revision}", sqliteNextRevision, "{next_updated}", sqliteNextUpdated)
		return values.Replace(revisions.Replace(template))
	}
	return EntitySQL{
		Save:     build(sqliteSave, "t", fields.String()),
		Delete:   build(sqliteDelete, n.Quote(e.Table), ""),
		Deleting: build(sqliteSave, "t", ""),
	}
}
