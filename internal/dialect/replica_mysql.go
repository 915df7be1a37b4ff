package dialect

import (
	"context"
	"fmt"
)

// mysqlRows: the rows are locked when they are read, so what is decided from them
// holds until the commit; whether there is no row is not, see [ReplicaLock]. Texts
// of keys go as they are, the tombstones' columns are binary.
//
// ON DUPLICATE KEY UPDATE changes the row that the first index with a duplicate
// leads to, whichever that is. So it is only for rows that are there, are locked,
// and have the key for their primary one, which is the index that InnoDB looks at
// first. New rows are inserted without it: a value that another row has in a
// unique column is then an error.
//
// The index is forced because of a small table MySQL would rather read, and so
// lock, all: rows that another consumer is changing, too.
var mysqlRows = rowTexts{
	stored: `SELECT 0, {key}, cqrs_revision, CAST(cqrs_updated AS CHAR) FROM {table}{hint} WHERE {among} FOR UPDATE`,

	tombstones: "SELECT `key`, revision, CAST(updated AS CHAR) FROM {tombstones} WHERE replica = {replica} AND `key` IN ({marks})",

	insert: `
INSERT INTO {table} ({first}, {columns}cqrs_revision, cqrs_updated)
VALUES {rows}`,

	overwrite: `
INSERT INTO {table} ({first}, {columns}cqrs_revision, cqrs_updated)
VALUES {rows}
ON DUPLICATE KEY UPDATE {overwrite}cqrs_revision = VALUES(cqrs_revision), cqrs_updated = VALUES(cqrs_updated)`,

	update: `UPDATE {table} SET {set}cqrs_revision = ?, cqrs_updated = ? WHERE {is_key}`,

	remove: `DELETE FROM {table} WHERE {among}`,

	bury: `
INSERT INTO {tombstones} (replica, ` + "`key`" + `, revision, updated)
VALUES {tombs}
ON DUPLICATE KEY UPDATE revision = VALUES(revision), updated = VALUES(updated), deleted_at = UTC_TIMESTAMP(6)`,

	revive: "DELETE FROM {tombstones} WHERE replica = {replica} AND `key` IN ({marks})",
}

// MySQLTombstoneKey is how many bytes the key of a tombstone has at most.
const MySQLTombstoneKey = 2800

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

// MySQLSession returns those settings of a session on which values depend: the SQL
// mode, the character set of statements, and the time zone's offset in seconds at
// two times of a year.
const MySQLSession = `
SELECT @@SESSION.sql_mode, @@SESSION.character_set_client,
       COALESCE(TIMESTAMPDIFF(SECOND, '2026-01-15 12:00:00', FROM_UNIXTIME(1768478400)), 1),
       COALESCE(TIMESTAMPDIFF(SECOND, '2026-07-15 12:00:00', FROM_UNIXTIME(1784116800)), 1)`

// mysqlInsertTrigger asks whether a trigger acts before insertions into a table, and
// so would on a row that is changed by an insertion that meets it.
const mysqlInsertTrigger = `
SELECT EXISTS (SELECT 1 FROM information_schema.triggers
               WHERE event_object_schema = COALESCE(?, DATABASE()) AND event_object_table = ?
                 AND event_manipulation = 'INSERT' AND action_timing = 'BEFORE')`

// MySQLInsertTrigger reports whether the table has a trigger before insertions, as
// far as the account may see the table's triggers.
func MySQLInsertTrigger(ctx context.Context, q Querier, table string) (has bool, err error) {
	_, args := MySQL.columns(table)
	if err := q.QueryRowContext(ctx, mysqlInsertTrigger, args...).Scan(&has); err != nil {
		return false, fmt.Errorf("read the triggers of table %s: %w", table, err)
	}
	return has, nil
}
