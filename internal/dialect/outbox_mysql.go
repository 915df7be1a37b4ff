package dialect

import (
	"slices"
	"strings"
)

// MySQL changes no row and returns it in one statement, so the write side takes
// several: lock the rows, read their tombstones, change, read. Every read is a
// locking one: under REPEATABLE READ any other, that of a table which an UPDATE
// joins included, sees what was committed when the transaction began. A
// statement's time is that of its beginning, so the change is one of its own,
// behind the lock.
//
// A statement's one parameter is a JSON array with an array for each key: its
// number, the key's text, its tombstone's revision and time, the key's columns.
// They come in key order, and STRAIGHT_JOIN makes the rows be locked in it.
//
// Change returns the number, the columns of the key, cqrs_revision, cqrs_updated,
// whether the row is inside Where, whether replicas had nothing of it, the fields
// and the tracked columns.
const (
	mysqlLock = `
SELECT {marked}.lockstep_ord, {keys}
FROM {list} STRAIGHT_JOIN {table} AS t ON {match}
FOR UPDATE`

	mysqlWrite = `
UPDATE {list} STRAIGHT_JOIN {table} AS t ON {match}
SET t.cqrs_revision = {next_revision}, t.cqrs_updated = {next_updated}`

	mysqlSaved = `
SELECT {marked}.lockstep_ord, {keys}, t.cqrs_revision, CAST(t.cqrs_updated AS CHAR), {inside}, {fresh}{fields}{tracked}
FROM {list} STRAIGHT_JOIN {table} AS t ON {match}
FOR UPDATE`

	mysqlDeleting = `
SELECT {marked}.lockstep_ord, {keys}, t.cqrs_revision, CAST(t.cqrs_updated AS CHAR), 1, 0{deleted}
FROM {list} STRAIGHT_JOIN {table} AS t ON {match}
FOR UPDATE`

	mysqlDelete = `
SELECT {marked}.lockstep_ord, {keys}, {next_revision}, CAST({next_updated} AS CHAR), 1, 0{deleted}
FROM {list} STRAIGHT_JOIN {table} AS t ON {match}
FOR UPDATE`

	mysqlSync = `
SELECT {marked}.lockstep_ord, {keys}, t.cqrs_revision, CAST(t.cqrs_updated AS CHAR), 1, 0{fields}
FROM {list} STRAIGHT_JOIN {table} AS t ON {match}
FOR UPDATE`

	mysqlRemove = `
DELETE t FROM {list} STRAIGHT_JOIN {table} AS t ON {match}`

	mysqlTrack = `
SELECT {marked}.lockstep_ord, {keys}{tracked}
FROM {list} STRAIGHT_JOIN {table} AS t ON {match}
FOR UPDATE`

	mysqlCheck = `
SELECT COUNT(*) FROM {table} AS lockstep_row WHERE ? AND ({where}
)`

	// mysqlKnown: after it, the row's first revision is not one more than the
	// tombstone's.
	mysqlKnown = `
INSERT INTO outbox_tombstones (entity, ` + "`key`" + `, revision, deleted_at)
SELECT {entity}, CAST({marked}.lockstep_text AS BINARY), -1, t.cqrs_updated
FROM {list} STRAIGHT_JOIN {table} AS t ON {match}
WHERE t.cqrs_revision = 0
ON DUPLICATE KEY UPDATE revision = outbox_tombstones.revision`

	mysqlTombstones = `
SELECT {marked}.lockstep_ord, d.revision, CAST(d.deleted_at AS CHAR)
FROM {list} STRAIGHT_JOIN outbox_tombstones d ON d.entity = {entity} AND d.` + "`key`" + ` = CAST({marked}.lockstep_text AS BINARY)
FOR UPDATE`

	mysqlNextRevision = `GREATEST(t.cqrs_revision, COALESCE({marked}.lockstep_revision, 0)) + 1`
	mysqlNextUpdated  = `GREATEST(UTC_TIMESTAMP(6), t.cqrs_updated, COALESCE(CAST({marked}.lockstep_deleted AS datetime(6)), t.cqrs_updated))`
	mysqlFresh        = `t.cqrs_revision = COALESCE({marked}.lockstep_revision, 0) + 1`
)

// MySQL's statements that are the same for every entity, each without its rows:
// see [MySQLRows].
const (
	MySQLInsertOutbox = "INSERT INTO outbox (topic, `key`, payload, metadata) VALUES {rows}"
	MySQLBury         = "INSERT INTO outbox_tombstones (entity, `key`, revision, deleted_at) VALUES {rows}\n" +
		"ON DUPLICATE KEY UPDATE revision = VALUES(revision), deleted_at = VALUES(deleted_at)"
)

// MySQLRows gives one of the statements above so many rows, of four parameters.
func MySQLRows(statement string, n int) string {
	return strings.Replace(statement, "{rows}", strings.TrimSuffix(strings.Repeat("(?, ?, ?, ?), ", n), ", "), 1)
}

// marked is how the statements call the list of keys.
const mysqlMarked = "lockstep_marked"

// mysqlBuilder makes the parts of a statement.
type mysqlBuilder struct{ EntityTable }

// list turns the parameter into rows. The columns' types are wider than the key's,
// so that one that does not fit is not found, instead of being cut to another.
func (b mysqlBuilder) list(parameter string) string {
	var columns strings.Builder
	for i, k := range b.Keys {
		columns.WriteString(", lockstep_k" + itoa(i) + " " + mysqlKeyType(k) + " PATH '$[" + itoa(i+4) + "]'")
	}
	return "JSON_TABLE(" + parameter + ", '$[*]' COLUMNS (lockstep_ord int PATH '$[0]', " +
		"lockstep_text varchar(3000) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$[1]', " +
		"lockstep_revision bigint PATH '$[2]', lockstep_deleted varchar(30) CHARACTER SET ascii PATH '$[3]'" + columns.String() + ")) AS " + mysqlMarked
}

// mysqlKeyType is the type a key is read as.
func mysqlKeyType(c Column) string {
	switch {
	case mysqlInteger(c) && strings.Contains(c.Type, "unsigned"):
		return "bigint unsigned"
	case mysqlInteger(c):
		return "bigint"
	case c.Base == "char", c.Base == "varchar":
		charset, _, _ := strings.Cut(c.Collation, "_")
		return "varchar(3000) CHARACTER SET " + charset + " COLLATE " + c.Collation
	}
	return "varchar(100) CHARACTER SET ascii COLLATE ascii_bin"
}

func mysqlInteger(c Column) bool {
	return slices.Contains([]string{"tinyint", "smallint", "mediumint", "int", "bigint"}, c.Base)
}

// mysqlKeyFault is [Name.KeyFault]. Text has to be told apart byte by byte, and
// without a conversion, which no index serves.
func mysqlKeyFault(c Column) string {
	charset, _, _ := strings.Cut(c.Collation, "_")
	switch {
	case c.IsTinyBool():
		return "is " + c.Type + ", which is sent as true or false and kept as a number: make it smallint"
	case mysqlInteger(c), c.Base == "uuid", c.Base == "inet4", c.Base == "inet6":
		return ""
	case c.Base != "char" && c.Base != "varchar":
		return "is " + c.Type + ": use an integer, a varchar or MariaDB's uuid"
	case !strings.HasSuffix(c.Collation, "_bin"):
		return "takes different keys for one (collation " + c.Collation + "): give it COLLATE utf8mb4_bin"
	case !slices.Contains([]string{"utf8mb4", "utf8mb3", "utf8", "ascii"}, charset):
		return "is in character set " + charset + ": use utf8mb4, COLLATE utf8mb4_bin"
	}
	return ""
}

// MySQLGeometry reports whether a column holds what has no form on the wire.
func MySQLGeometry(c Column) bool {
	return slices.Contains([]string{
		"geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon", "geometrycollection", "geomcollection",
	}, c.Base)
}

func (b mysqlBuilder) match() string {
	terms := make([]string, len(b.Keys))
	for i, k := range b.Keys {
		terms[i] = "t." + MySQL.QuoteColumn(k.Name) + " = " + mysqlMarked + ".lockstep_k" + itoa(i)
	}
	return strings.Join(terms, " AND ")
}

// values is the columns' values, a comma before each.
func (b mysqlBuilder) values(columns []Column) string {
	var list strings.Builder
	for _, c := range columns {
		list.WriteString(", " + mysqlValue("t."+MySQL.QuoteColumn(c.Name), c))
	}
	return list.String()
}

func (b mysqlBuilder) keys() string { return strings.TrimPrefix(b.values(b.Keys), ", ") }

// inside evaluates the condition in a row that has nothing but the table's
// columns, which the transaction has locked.
func (b mysqlBuilder) inside() string {
	if b.Where == "" {
		return "1"
	}
	same := make([]string, len(b.Keys))
	for i, k := range b.Keys {
		same[i] = "lockstep_row." + MySQL.QuoteColumn(k.Name) + " = t." + MySQL.QuoteColumn(k.Name)
	}
	return "COALESCE((SELECT (" + b.Where + "\n) FROM " + MySQL.Quote(b.Table) + " AS lockstep_row WHERE " + strings.Join(same, " AND ") + "), 0) <> 0"
}

// mysqlValue is the expression for a column's value in a form that the session's
// time zone and character set and the driver's options have no part in: times and
// exact numbers as text, a timestamp as seconds, text in UTF-8. A float is shown
// with fewer digits than it has, so it goes as a double.
func mysqlValue(column string, c Column) string {
	switch c.Base {
	case "tinyint", "smallint", "mediumint", "int", "bigint", "year", "double",
		"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob":
		return column
	case "float":
		return "(" + column + " + 0e0)"
	case "bit":
		return "CAST(" + column + " AS UNSIGNED)"
	case "timestamp":
		return "CAST(UNIX_TIMESTAMP(" + column + ") AS CHAR)"
	case "char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set", "json":
		return "CAST(CONVERT(" + column + " USING utf8mb4) AS BINARY)"
	}
	return "CAST(" + column + " AS CHAR)"
}

// MySQLEntity builds the statements of an entity.
func MySQLEntity(e EntityTable) EntitySQL {
	b := mysqlBuilder{e}
	deleted := ""
	if e.DeletedRows {
		deleted = b.values(e.Fields)
	}
	build := func(template string) string {
		values := strings.NewReplacer(
			"{table}", MySQL.Quote(e.Table), "{entity}", MySQL.QuoteText(e.CQRSID), "{marked}", mysqlMarked,
			"{list}", b.list("?"), "{match}", b.match(), "{keys}", b.keys(), "{inside}", b.inside(), "{where}", e.Where,
			"{fields}", b.values(e.Fields), "{tracked}", b.values(e.Tracked), "{deleted}", deleted,
		)
		inner := strings.NewReplacer("{next_revision}", mysqlNextRevision, "{next_updated}", mysqlNextUpdated, "{fresh}", mysqlFresh)
		return values.Replace(inner.Replace(template))
	}
	known := ""
	if e.Where != "" && !e.LeaveSilently {
		known = build(mysqlKnown)
	}
	lock, write, remove := build(mysqlLock), build(mysqlWrite), build(mysqlRemove)
	return EntitySQL{
		Save:       Operation{Lock: lock, Write: write, Change: build(mysqlSaved)},
		Deleting:   Operation{Lock: lock, Write: write, Change: build(mysqlDeleting)},
		Delete:     Operation{Lock: lock, Change: build(mysqlDelete), After: remove},
		Sync:       Operation{Lock: lock, Change: build(mysqlSync)},
		Tombstones: build(mysqlTombstones),
		Known:      known, Remove: remove, Track: build(mysqlTrack), Check: build(mysqlCheck),
	}
}
