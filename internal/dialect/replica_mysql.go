package dialect

import "strings"

// The statements of one message on MySQL. The row that it is about is locked
// when it is read, so what is decided from it holds until the commit; whether
// there is no row is not, see [ReplicaLock]. Texts of keys go as they are, the
// tombstones' columns are binary.
//
// A new row is inserted and a stored one updated, never both in one: ON DUPLICATE
// KEY UPDATE would change another key's row that has the same value in another
// unique column.
const (
	mysqlReplicaStored = `SELECT 1, cqrs_revision, CAST(cqrs_updated AS CHAR) FROM {table} WHERE {is_key} FOR UPDATE`

	mysqlReplicaTombstone = `
SELECT 2, revision, CAST(updated AS CHAR) FROM {tombstones} WHERE replica = {replica} AND ` + "`key`" + ` = ?`

	mysqlReplicaInsert = `
INSERT INTO {table} ({first}, {columns}cqrs_revision, cqrs_updated)
VALUES (?, {marks}?, ?)`

	mysqlReplicaUpdate = `UPDATE {table} SET {set}cqrs_revision = ?, cqrs_updated = ? WHERE {is_key}`

	mysqlReplicaDelete = `DELETE FROM {table} WHERE {is_key}`

	mysqlReplicaBury = `
INSERT INTO {tombstones} (replica, ` + "`key`" + `, revision, updated)
VALUES ({replica}, ?, ?, ?)
ON DUPLICATE KEY UPDATE revision = VALUES(revision), updated = VALUES(updated), deleted_at = UTC_TIMESTAMP(6)`

	mysqlReplicaRevive = `DELETE FROM {tombstones} WHERE replica = {replica} AND ` + "`key`" + ` = ?`
)

// ReplicaLock are MySQL's statements about the lock that a transaction takes on a
// replica table before it reads: shared for SAVEs and SYNCs, exclusive for a batch
// with a DELETE, so that no SAVE that began before it slips past a tombstone it
// cannot see. The lock is a row of its own; Found makes it. Each takes the table's
// name.
var ReplicaLock = struct{ Found, Shared, Exclusive string }{
	Found:     `INSERT IGNORE INTO replica_locks (replica) VALUES (?)`,
	Shared:    `SELECT 1 FROM replica_locks WHERE replica = ? LOCK IN SHARE MODE`,
	Exclusive: `SELECT 1 FROM replica_locks WHERE replica = ? FOR UPDATE`,
}

// MySQLSession returns what a session's settings have to be right for: the SQL
// mode, the character set of statements, and the time zone's offset in seconds at
// two times of a year.
const MySQLSession = `
SELECT @@SESSION.sql_mode, @@SESSION.character_set_client,
       COALESCE(TIMESTAMPDIFF(SECOND, '2026-01-15 12:00:00', FROM_UNIXTIME(1768478400)), 1),
       COALESCE(TIMESTAMPDIFF(SECOND, '2026-07-15 12:00:00', FROM_UNIXTIME(1784116800)), 1)`

// MySQLStored returns the query for a row's version, after the 1 that says so. Its
// parameters are the key's values. It locks the row.
func (r *Replica) MySQLStored() string { return r.mysql(mysqlReplicaStored) }

// MySQLTombstone returns the query for a tombstone's version, after a 2. Its
// parameter is the key's text.
func (r *Replica) MySQLTombstone() string { return r.mysql(mysqlReplicaTombstone) }

// MySQLInsert returns the statement that makes a row. Its parameters are the key,
// the chosen columns in order, revision and time.
func (r *Replica) MySQLInsert(where Where) string {
	return r.mysql(mysqlReplicaInsert,
		"{columns}", r.each(MySQL, where, "%[2]s, "),
		"{marks}", strings.Repeat("?, ", strings.Count(r.each(MySQL, where, "%[1]d,"), ",")))
}

// MySQLUpdate returns the statement that changes a row. Its parameters are the
// chosen columns in order, revision and time, and the key's values.
func (r *Replica) MySQLUpdate(where Where) string {
	return r.mysql(mysqlReplicaUpdate, "{set}", r.each(MySQL, where, "%[2]s = ?, "))
}

// MySQLDelete returns the statement that deletes the row of a key.
func (r *Replica) MySQLDelete() string { return r.mysql(mysqlReplicaDelete) }

// MySQLBury returns the statement that leaves or replaces a tombstone. Its
// parameters are the key's text, revision and time.
func (r *Replica) MySQLBury() string { return r.mysql(mysqlReplicaBury) }

// MySQLRevive returns the statement that removes the tombstone of a key's text.
func (r *Replica) MySQLRevive() string { return r.mysql(mysqlReplicaRevive) }

func (r *Replica) mysql(text string, replacements ...string) string {
	return strings.NewReplacer(append(replacements,
		"{table}", MySQL.Quote(r.Table), "{replica}", MySQL.QuoteText(r.Table),
		"{tombstones}", TombstoneTable, "{first}", MySQL.QuoteColumn(r.Key.Name),
		"{is_key}", r.eachKey(MySQL, "%[1]s = ?", " AND "))...).Replace(text)
}
