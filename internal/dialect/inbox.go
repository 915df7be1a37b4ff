package dialect

import (
	"database/sql"
	"fmt"
	"time"

	"github.com/lockstep-go/lockstep/event"
)

// InboxTable keeps the versions of what handlers have seen.
const InboxTable = "replica_inbox"

// Inbox holds the statements of a handler's transaction. Stored takes queue,
// entity and key, and returns revision, time, and whether the last event was a
// DELETE; its row stays locked until the transaction ends. Insert and Update
// take revision, time (see [Name.Time]), whether it is a DELETE, queue, entity
// and key. Insert waits for another transaction that inserts the key, and does
// nothing when there is a row.
type Inbox struct {
	Stored, Insert, Update string
}

// Inbox returns the dialect's statements.
func (n Name) Inbox() Inbox {
	switch n {
	case MySQL:
		return Inbox{mysqlInboxStored, mysqlInboxInsert, mysqlInboxUpdate}
	case SQLite:
		return Inbox{sqliteInboxStored, sqliteInboxInsert, sqliteInboxUpdate}
	}
	return Inbox{postgresInboxStored, postgresInboxInsert, postgresInboxUpdate}
}

const (
	postgresInboxStored = `
SELECT revision, updated, deleted_at IS NOT NULL
FROM replica_inbox
WHERE queue = $1 AND entity = $2 AND key = $3
FOR UPDATE`

	postgresInboxInsert = `
INSERT INTO replica_inbox (revision, updated, deleted_at, queue, entity, key)
SELECT $1::bigint, $2::timestamptz, CASE WHEN $3 THEN clock_timestamp() END, $4::text, $5::text, $6::text
WHERE (SELECT ` + postgresOnDisk + `) <> 'off'
ON CONFLICT DO NOTHING`

	postgresInboxUpdate = `
UPDATE replica_inbox
SET revision = $1, updated = $2, deleted_at = CASE WHEN $3 THEN clock_timestamp() END
WHERE queue = $4 AND entity = $5 AND key = $6 AND (SELECT ` + postgresOnDisk + `) <> 'off'`
)

// SQLite needs no row lock: it has one writer. CAST hides the declared type,
// which some drivers take as leave to turn the text into a time.
const (
	sqliteInboxStored = `
SELECT revision, CAST(updated AS TEXT), deleted_at IS NOT NULL
FROM replica_inbox
WHERE queue = ? AND entity = ? AND key = ?`

	sqliteInboxInsert = `
INSERT INTO replica_inbox (revision, updated, deleted_at, queue, entity, key)
VALUES (?, ?, CASE WHEN ? THEN strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now') END, ?, ?, ?)
ON CONFLICT DO NOTHING`

	sqliteInboxUpdate = `
UPDATE replica_inbox
SET revision = ?, updated = ?, deleted_at = CASE WHEN ? THEN strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now') END
WHERE queue = ? AND entity = ? AND key = ?`
)

// MySQL's IGNORE would also cut what is too long; MaxInboxKey prevents that. The
// time is read as text because a driver may take it for one of another zone.
const (
	mysqlInboxStored = `
SELECT revision, CAST(updated AS CHAR), deleted_at IS NOT NULL
FROM replica_inbox
WHERE queue = ? AND entity = ? AND ` + "`key`" + ` = ?
FOR UPDATE`

	mysqlInboxInsert = `
INSERT IGNORE INTO replica_inbox (revision, updated, deleted_at, queue, entity, ` + "`key`" + `)
VALUES (?, ?, CASE WHEN ? THEN utc_timestamp(6) END, ?, ?, ?)`

	mysqlInboxUpdate = `
UPDATE replica_inbox
SET revision = ?, updated = ?, deleted_at = CASE WHEN ? THEN utc_timestamp(6) END
WHERE queue = ? AND entity = ? AND ` + "`key`" + ` = ?`
)

// MaxInboxKey is the longest key, in bytes, that every database's index takes.
const MaxInboxKey = 2500

// PostgresStatementTimeout sets statement_timeout for the rest of a transaction,
// in milliseconds. Zero takes it away.
const PostgresStatementTimeout = `SELECT set_config('statement_timeout', $1, true)`

// Time returns t as the parameter for a column of times.
func (n Name) Time(t time.Time) any {
	switch n {
	case MySQL:
		return t.UTC().Format("2006-01-02 15:04:05.000000")
	case SQLite:
		return event.FormatTime(t)
	}
	return t
}

// Time scans a time from whatever a driver returns for one. What is none is the
// zero time, older than all.
type Time struct{ time.Time }

var _ sql.Scanner = (*Time)(nil)

// Scan takes a time, text or null.
func (t *Time) Scan(value any) error {
	t.Time = time.Time{}
	switch v := value.(type) {
	case nil:
	case time.Time:
		t.Time = v.UTC()
	case string:
		t.Time, _, _ = event.ParseTime(v)
	case []byte:
		t.Time, _, _ = event.ParseTime(string(v))
	default:
		return fmt.Errorf("dialect: a time came as %T", value)
	}
	return nil
}
