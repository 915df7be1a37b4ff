package dialect

// sqliteRows: SQLite's one writer at a time needs no guards in SQL. Times are text
// of fixed width in UTC.
//
// A value in a VALUES list has no affinity, so it is compared as the key's column
// has it, as a parameter would be, and the column's index serves. CAST hides the
// declared type, which some drivers take as leave to turn the text into a time.
var sqliteRows = rowTexts{
	stored: `
WITH v (n, {v_columns}) AS (VALUES {numbered})
SELECT v.n, {t_key}, t.cqrs_revision, CAST(t.cqrs_updated AS TEXT)
FROM v CROSS JOIN {table} AS t ON {is_v}`,

	tombstones: `SELECT key, revision, CAST(updated AS TEXT) FROM {tombstones} WHERE replica = {replica} AND key IN ({marks})`,

	insert: `
INSERT INTO {table} ({first}, {columns}cqrs_revision, cqrs_updated)
VALUES {rows}`,

	overwrite: `
INSERT INTO {table} AS t ({first}, {columns}cqrs_revision, cqrs_updated)
VALUES {rows}
ON CONFLICT ({key}) DO UPDATE
SET {overwrite}cqrs_revision = excluded.cqrs_revision, cqrs_updated = excluded.cqrs_updated`,

	update: `UPDATE {table} SET {set}cqrs_revision = ?, cqrs_updated = ? WHERE {is_key}`,

	remove: `DELETE FROM {table} WHERE {among}`,

	bury: `
INSERT INTO {tombstones} (replica, key, revision, updated)
VALUES {tombs}
ON CONFLICT (replica, key) DO UPDATE
SET revision = excluded.revision, updated = excluded.updated, deleted_at = excluded.deleted_at`,

	revive: `DELETE FROM {tombstones} WHERE replica = {replica} AND key IN ({marks})`,
}

// SQLiteBegin begins a transaction, and fails within one.
const SQLiteBegin = `BEGIN`
