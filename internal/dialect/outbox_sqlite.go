package dialect

import "strings"

// SQLite cannot change and insert in one statement, so the write side reads the
// changed rows back and encodes them itself. The database runs in the process,
// and its one writer at a time is the row lock.
//
// Columns are named with their table: SQLite takes a quoted name that is no
// column for a text. An alias would not do, RETURNING does not know it.
//
// The statements take the keys as a JSON array (?1) and the current time (?2),
// and return the key, cqrs_revision, cqrs_updated and the fields of each row.
const (
	sqliteSave = `
UPDATE {table}
SET cqrs_revision = {next_revision}, cqrs_updated = {next_updated}
WHERE {table}.{key} IN (SELECT value FROM json_each(?1))
RETURNING {table}.{key}, {table}.cqrs_revision, {table}.cqrs_updated{fields}`

	sqliteDelete = `
DELETE FROM {table}
WHERE {table}.{key} IN (SELECT value FROM json_each(?1))
RETURNING {table}.{key}, {next_revision}, {next_updated}`

	sqliteNextRevision = `max({table}.cqrs_revision, coalesce((
    SELECT d.revision FROM outbox_tombstones d
    WHERE d.entity = {entity} AND d.key = CAST({table}.{key} AS TEXT)), 0)) + 1`
	sqliteNextUpdated = `max(?2, {table}.cqrs_updated, coalesce((
    SELECT d.deleted_at FROM outbox_tombstones d
    WHERE d.entity = {entity} AND d.key = CAST({table}.{key} AS TEXT)), ''))`
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
		fields.WriteString(", " + n.Quote(e.Table) + "." + n.QuoteColumn(c.Name))
	}
	build := func(template, fields string) string {
		values := strings.NewReplacer(
			"{table}", n.Quote(e.Table),
			"{key}", n.QuoteColumn(e.Key.Name),
			"{entity}", n.QuoteText(e.CQRSID),
			"{fields}", fields,
		)
		revisions := strings.NewReplacer("{next_revision}", sqliteNextRevision, "{next_updated}", sqliteNextUpdated)
		return values.Replace(revisions.Replace(template))
	}
	return EntitySQL{
		Save:     build(sqliteSave, fields.String()),
		Delete:   build(sqliteDelete, ""),
		Deleting: build(sqliteSave, ""),
		Sync:     build(sqliteSync, fields.String()),
	}
}
