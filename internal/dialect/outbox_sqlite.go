package dialect

import "strings"

// sqliteKeyFault is [Name.KeyFault]. What has no form of its own there is found by the
// spelling that it was stored in, which is not the one that it is sent in.
func sqliteKeyFault(c Column) string {
	switch {
	case strings.Contains(c.Base, "bool"):
		return "is " + c.Type + ", which is sent as true or false and kept as a number: make it INTEGER"
	case strings.Contains(c.Base, "date"), strings.Contains(c.Base, "time"):
		return "is " + c.Type + ", which is kept in one spelling and sent in another: make it TEXT or INTEGER"
	case strings.Contains(c.Base, "blob"):
		return "is " + c.Type + ": make it TEXT or INTEGER"
	}
	return ""
}

// SQLite cannot change and insert in one statement, so the write side reads the
// changed rows back and encodes them itself. The database runs in the process,
// and its one writer at a time is the row lock.
//
// Columns are named with their table: SQLite takes a quoted name that is no
// column for a text. An alias would not do, RETURNING does not know it.
//
// The statements take the keys as a JSON array (?1) and the current time (?2).
// They return the columns of the key, cqrs_revision, cqrs_updated, whether the row
// is inside Where, whether replicas had nothing of it, the fields and the tracked
// columns.
const (
	sqliteSave = `
UPDATE {table}
SET cqrs_revision = {next_revision}, cqrs_updated = {next_updated}
WHERE {match}
RETURNING {keys}, {table}.cqrs_revision, {table}.cqrs_updated, {inside}, {fresh}{fields}{tracked}`

	sqliteDeleting = `
UPDATE {table}
SET cqrs_revision = {next_revision}, cqrs_updated = {next_updated}
WHERE {match}
RETURNING {keys}, {table}.cqrs_revision, {table}.cqrs_updated, 1, 0{deleted}`

	sqliteDelete = `
DELETE FROM {table}
WHERE {match}
RETURNING {keys}, {next_revision}, {next_updated}, 1, 0{deleted}`

	// sqliteSync changes nothing.
	sqliteSync = `
SELECT {keys}, {table}.cqrs_revision, {table}.cqrs_updated, 1, 0{fields}
FROM {table}
WHERE {match} AND ?2 IS NOT NULL`

	// sqliteKnown: after it, the row's first revision is not one more than the
	// tombstone's.
	sqliteKnown = `
INSERT INTO outbox_tombstones (entity, key, revision, deleted_at)
SELECT {entity}, {key_text}, -1, {table}.cqrs_updated
FROM {table}
WHERE {match} AND {table}.cqrs_revision = 0
ON CONFLICT (entity, key) DO NOTHING`

	sqliteRemove = `
DELETE FROM {table}
WHERE {match}`

	// sqliteTrack changes nothing, which is how a transaction becomes the one
	// writer before it reads. It returns the columns of the key and the tracked ones.
	sqliteTrack = `
UPDATE {table}
SET cqrs_revision = {table}.cqrs_revision
WHERE {match}
RETURNING {keys}{tracked}`

	sqliteCheck = `
SELECT count(*) FROM {table} AS lockstep_row WHERE ?1 AND ({where}
)`

	sqliteTombstone = `FROM outbox_tombstones d WHERE d.entity = {entity} AND d.key = {key_text}`

	sqliteNextRevision = `max({table}.cqrs_revision, coalesce((SELECT d.revision ` + sqliteTombstone + `), 0)) + 1`
	sqliteNextUpdated  = `max(?2, {table}.cqrs_updated, coalesce((SELECT d.deleted_at ` + sqliteTombstone + `), ''))`
	sqliteFresh        = `{table}.cqrs_revision = coalesce((SELECT d.revision ` + sqliteTombstone + `), 0) + 1`
)

// SQLite's statements that are the same for every entity.
const (
	SQLiteInsertOutbox = `INSERT INTO outbox (topic, key, payload, metadata) VALUES (?1, ?2, ?3, ?4)`
	SQLiteBury         = `
INSERT INTO outbox_tombstones (entity, key, revision, deleted_at) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (entity, key) DO UPDATE SET revision = excluded.revision, deleted_at = excluded.deleted_at`
)

// sqliteBuilder makes the parts of a statement. Columns get the prefix.
type sqliteBuilder struct {
	EntityTable
	prefix string
}

func (b sqliteBuilder) column(c Column) string { return b.prefix + SQLite.QuoteColumn(c.Name) }

// list is columns, a comma before each.
func (b sqliteBuilder) list(columns []Column) string {
	var list strings.Builder
	for _, c := range columns {
		list.WriteString(", " + b.column(c))
	}
	return list.String()
}

func (b sqliteBuilder) keys() string { return strings.TrimPrefix(b.list(b.Keys), ", ") }

// keyText is the key as text: of several columns, the JSON array of their texts.
func (b sqliteBuilder) keyText() string {
	texts := make([]string, len(b.Keys))
	for i, k := range b.Keys {
		texts[i] = "CAST(" + b.column(k) + " AS TEXT)"
	}
	if len(texts) == 1 {
		return texts[0]
	}
	return "json_array(" + strings.Join(texts, ", ") + ")"
}

func (b sqliteBuilder) pk() string {
	if len(b.Keys) == 1 {
		return b.keys()
	}
	return b.keyText()
}

// partsOf takes the columns of a key out of its text.
func (b sqliteBuilder) partsOf(text string) []string {
	if len(b.Keys) == 1 {
		return []string{text}
	}
	parts := make([]string, len(b.Keys))
	for i := range b.Keys {
		parts[i] = "json_extract(" + text + ", '$[" + itoa(i) + "]')"
	}
	return parts
}

func (b sqliteBuilder) inside() string {
	if b.Where == "" {
		return "1"
	}
	return "coalesce((" + b.Where + "\n), 0) <> 0"
}

// SQLiteEntity builds the statements of an entity.
func SQLiteEntity(e EntityTable) EntitySQL {
	b := sqliteBuilder{EntityTable: e, prefix: SQLite.Quote(e.Table) + "."}
	deleted := ""
	if e.DeletedRows {
		deleted = b.list(e.Fields)
	}
	build := func(template string) Operation {
		values := strings.NewReplacer(
			"{table}", SQLite.Quote(e.Table), "{entity}", SQLite.QuoteText(e.CQRSID),
			"{keys}", b.keys(), "{key_text}", b.keyText(),
			"{match}", "("+b.keys()+") IN (SELECT "+strings.Join(b.partsOf("value"), ", ")+" FROM json_each(?1))",
			"{fields}", b.list(e.Fields), "{tracked}", b.list(e.Tracked), "{deleted}", deleted,
			"{inside}", b.inside(), "{where}", e.Where,
		)
		inner := strings.NewReplacer(
			"{next_revision}", sqliteNextRevision, "{next_updated}", sqliteNextUpdated, "{fresh}", sqliteFresh)
		return Operation{Change: values.Replace(inner.Replace(template))}
	}
	known := ""
	if e.Where != "" && !e.LeaveSilently {
		known = build(sqliteKnown).Change
	}
	return EntitySQL{
		Known: known,
		Save:  build(sqliteSave), Delete: build(sqliteDelete), Deleting: build(sqliteDeleting), Sync: build(sqliteSync),
		Remove: build(sqliteRemove).Change, Track: build(sqliteTrack).Change, Check: build(sqliteCheck).Change,
	}
}
