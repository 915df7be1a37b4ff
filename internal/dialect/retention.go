package dialect

// ExpiredTombstones returns the statement that removes old tombstones. Its
// parameters are the replica table, the age in seconds, and how many rows to
// remove at most.
func (n Name) ExpiredTombstones() string {
	switch n {
	case MySQL:
		return mysqlExpiredTombstones
	case SQLite:
		return sqliteExpiredTombstones
	}
	return postgresExpiredTombstones
}

// ExpiredInbox returns the same for what a queue's handlers remember of keys whose
// last event was a DELETE; its first parameter is the queue. Rows of keys that
// live have no deleted_at.
func (n Name) ExpiredInbox() string {
	switch n {
	case MySQL:
		return mysqlExpiredInbox
	case SQLite:
		return sqliteExpiredInbox
	}
	return postgresExpiredInbox
}

// The rows are locked before they are removed, and those that somebody writes at
// the moment are left for another time: nobody waits for this but for the moment
// of its commit, and what has come to life meanwhile stays.
const (
	postgresExpiredTombstones = `
DELETE FROM replica_tombstones
WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM replica_tombstones
    WHERE replica = $1 AND deleted_at < clock_timestamp() - make_interval(secs => $2)
    LIMIT $3
    FOR UPDATE SKIP LOCKED))`

	postgresExpiredInbox = `
DELETE FROM replica_inbox
WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM replica_inbox
    WHERE queue = $1 AND deleted_at IS NOT NULL AND deleted_at < clock_timestamp() - make_interval(secs => $2)
    LIMIT $3
    FOR UPDATE SKIP LOCKED))`

	sqliteExpiredTombstones = `
DELETE FROM replica_tombstones
WHERE (replica, key) IN (
    SELECT replica, key FROM replica_tombstones
    WHERE replica = ?1 AND deleted_at < strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now', '-' || ?2 || ' seconds')
    LIMIT ?3)`

	sqliteExpiredInbox = `
DELETE FROM replica_inbox
WHERE (queue, entity, key) IN (
    SELECT queue, entity, key FROM replica_inbox
    WHERE queue = ?1 AND deleted_at IS NOT NULL
      AND deleted_at < strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now', '-' || ?2 || ' seconds')
    LIMIT ?3)`

	mysqlExpiredTombstones = `
DELETE FROM replica_tombstones
WHERE replica = ? AND deleted_at < UTC_TIMESTAMP(6) - INTERVAL ? SECOND
LIMIT ?`

	mysqlExpiredInbox = `
DELETE FROM replica_inbox
WHERE queue = ? AND deleted_at < UTC_TIMESTAMP(6) - INTERVAL ? SECOND
LIMIT ?`
)
