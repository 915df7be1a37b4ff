package dialect

import (
	"strconv"
	"strings"
)

// The statements of one message on SQLite, whose one writer at a time needs no
// guards in SQL. Times are text of fixed width in UTC.
const (
	// A row counts more than a tombstone. CAST hides the declared type, which
	// some drivers take as leave to turn the text into a time.
	sqliteReplicaStored = `
SELECT 1, cqrs_revision, CAST(cqrs_updated AS TEXT) FROM {table} WHERE {is_key}
UNION ALL
SELECT 2, revision, updated FROM {tombstones} WHERE replica = {replica} AND key = {text}
ORDER BY 1 LIMIT 1`

	sqliteReplicaSave = `
INSERT INTO {table} AS t ({first}, {columns}cqrs_revision, cqrs_updated)
VALUES (?, {marks}?, ?)
ON CONFLICT ({key}) DO UPDATE
SET {set}cqrs_revision = excluded.cqrs_revision, cqrs_updated = excluded.cqrs_updated`

	sqliteReplicaDelete = `DELETE FROM {table} WHERE {is_key}`

	sqliteReplicaBury = `
INSERT INTO {tombstones} (replica, key, revision, updated)
VALUES ({replica}, ?1, ?2, ?3)
ON CONFLICT (replica, key) DO UPDATE
SET revision = excluded.revision, updated = excluded.updated, deleted_at = excluded.deleted_at`

	sqliteReplicaRevive = `DELETE FROM {tombstones} WHERE replica = {replica} AND key = ?1`
)

// SQLiteSave returns the statement that writes a row, whatever is stored. Its
// parameters are the key, the chosen columns in order, revision and time.
func (r *Replica) SQLiteSave(where Where) string {
	return r.sqlite(sqliteReplicaSave,
		"{columns}", r.each(SQLite, where, "%[2]s, "),
		"{marks}", strings.Repeat("?, ", strings.Count(r.each(SQLite, where, "%[1]d,"), ",")),
		"{set}", r.each(SQLite, where, "%[2]s = excluded.%[2]s, "))
}

// SQLiteStored returns the query for what is stored under a key: 1 and a row's
// version, or 2 and a tombstone's. Its parameters are the key and the key's text.
func (r *Replica) SQLiteStored() string { return r.sqlite(sqliteReplicaStored) }

// SQLiteDelete returns the statement that deletes the row of a key; its
// parameters are the key's values.
func (r *Replica) SQLiteDelete() string { return r.sqlite(sqliteReplicaDelete) }

// SQLiteBury returns the statement that leaves or replaces a tombstone. Its
// parameters are the key's text, revision and time.
func (r *Replica) SQLiteBury() string { return r.sqlite(sqliteReplicaBury) }

// SQLiteRevive returns the statement that removes the tombstone of a key's text.
func (r *Replica) SQLiteRevive() string { return r.sqlite(sqliteReplicaRevive) }

func (r *Replica) sqlite(text string, replacements ...string) string {
	return strings.NewReplacer(append(replacements,
		"{table}", SQLite.Quote(r.Table), "{replica}", SQLite.QuoteText(r.Table),
		"{tombstones}", TombstoneTable, "{key}", r.eachKey(SQLite, "%[1]s", ", "), "{first}", SQLite.QuoteColumn(r.Key.Name),
		"{is_key}", r.eachKey(SQLite, "%[1]s = ?%[3]d", " AND "), "{text}", "?"+strconv.Itoa(len(r.Rest)+2))...).Replace(text)
}
