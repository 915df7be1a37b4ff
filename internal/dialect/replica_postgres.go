package dialect

import (
	"fmt"
	"strings"
)

// replicaLockClass is the first half of the advisory locks of replica tables,
// so that they do not meet other programs' locks. The second half is the table,
// however it is spelled: advisory locks are the whole database's.
const replicaLockClass = 0x6c6b7374

// postgresSettings hold for the transaction only. Times without an offset are
// UTC on the wire. A cached plan made for an almost empty table would scan it
// whole while it fills, so the plan is to use the key's index from the start;
// disabled nodes look expensive enough to be compiled, which never pays here. What
// is acknowledged to the broker has to be on the disk, see postgresOnDisk.
const postgresSettings = `SELECT set_config('TimeZone', 'UTC', true), set_config('jit', 'off', true), ` +
	`set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true), ` +
	postgresOnDisk

// postgresOnDisk makes a transaction's COMMIT wait for the disk where
// synchronous_commit is off by default. Its value is never 'off'.
const postgresOnDisk = `set_config('synchronous_commit', ` +
	`CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, true)`

// ReplicaBegin returns the first statement of a transaction that writes to
// replica tables on PostgreSQL: settings and one advisory lock a table, which
// must be given in one order everywhere. Writers of rows share a table's lock;
// a DELETE holds it alone, so that no SAVE that started before it slips past a
// tombstone it cannot see. It is a statement of its own because only the next
// one sees what others committed while this one waited.
func ReplicaBegin(tables []string, exclusive func(table string) bool) string {
	var b strings.Builder
	b.WriteString(postgresSettings)
	for _, t := range tables {
		lock := "pg_advisory_xact_lock_shared"
		if exclusive(t) {
			lock = "pg_advisory_xact_lock"
		}
		fmt.Fprintf(&b, ", %s(%d, hashoid(%s::regclass))", lock, replicaLockClass, Postgres.QuoteText(Postgres.Quote(t)))
	}
	return b.String()
}

// Statements of the one-by-one search for messages that do not fit. Deferred
// constraints have to speak up at once there.
const (
	ReplicaImmediate = `SET CONSTRAINTS ALL IMMEDIATE`
	SavepointSet     = `SAVEPOINT lockstep`
	SavepointKeep    = `RELEASE SAVEPOINT lockstep`
	SavepointUndo    = `ROLLBACK TO SAVEPOINT lockstep; RELEASE SAVEPOINT lockstep`
)

// Members of the objects in the JSON array that the replica statements take,
// one object a key. A column's value is under MemberColumn followed by its index.
const (
	MemberKey      = "k"
	MemberRevision = "r"
	MemberUpdated  = "u"
	MemberColumn   = "c"
	// MemberBase is the lowest stored revision that leaves no gap below this
	// object's.
	MemberBase = "b"
	// MemberPass is a revision that replaces a tombstone of a lower one; absent,
	// it is the object's own.
	MemberPass = "p"
	// MemberHeld and MemberDead are the lowest revisions of a stored row and of a
	// tombstone that make the object stale, where that depends on revisions alone.
	MemberHeld = "h"
	MemberDead = "d"
	// MemberFirst is the time of a first revision from a master that starts
	// again at 0 under a used key; it replaces an earlier tombstone.
	MemberFirst = "f"
)

// The names in these statements that stand where a table's could start with
// lockstep_, so that no replica table is hidden by them.

// postgresReplicaFollow writes SAVEs over rows that hold the revision just below.
// That is what nearly all messages are for, and nothing else needs to be known
// about those: no tombstone, no other revision. The result is what was not
// written, by its place from 1: usually nothing.
const postgresReplicaFollow = `
WITH lockstep_done AS (
    UPDATE {table} t
    SET {set_m}cqrs_revision = m.r, cqrs_updated = m.u
    FROM {source}
    WHERE {t_is_m} AND t.cqrs_revision >= m.b AND t.cqrs_revision < m.r
    RETURNING m.n
)
SELECT n FROM generate_series(1, {count}) n WHERE n NOT IN (SELECT n FROM lockstep_done) ORDER BY n`

// The messages for that: one array a column, or a JSON array, which takes the
// server half as long again to read.
const (
	postgresFollowArrays  = `unnest({arrays}) WITH ORDINALITY AS m ({names}, b, r, u, n)`
	postgresFollowObjects = `(
        SELECT {values}, b, r, u, n
        FROM ROWS FROM (json_to_recordset($1) AS ({members}, b bigint, r bigint, u timestamptz)) WITH ORDINALITY AS m ({names}, b, r, u, n)
    ) m`
)

// postgresReplicaSave writes SAVEs and SYNCs over whatever is stored.
//
//   - m: the objects, in key order, so that two consumers lock rows in one order.
//   - rest: the same with the revision held, or whether they may replace a
//     tombstone (null: there is none; a row counts more than a tombstone).
//   - put: the guard stands twice, in rest for the rows seen and behind ON
//     CONFLICT for those that others wrote meanwhile.
//
// The result is for the counters.
const postgresReplicaSave = `
WITH lockstep_m AS MATERIALIZED (
    SELECT {values}, p, r, u, f, n
    FROM ROWS FROM (json_to_recordset($1) AS ({members}, p bigint, r bigint, u timestamptz, f timestamptz))
         WITH ORDINALITY AS m ({names}, p, r, u, f, n)
), lockstep_rest AS MATERIALIZED (
    SELECT h.*, CASE WHEN h.held IS NULL THEN (
        SELECT greatest(h.r, h.p) > d.revision OR coalesce(h.f > d.updated, false)
        FROM {tombstones} d
        WHERE d.replica = {replica} AND d.key = {h_text}) END AS revives
    FROM (
        SELECT m.*, (SELECT t.cqrs_revision FROM {table} t WHERE {t_is_m}) AS held
        FROM lockstep_m m
        OFFSET 0
    ) h
), lockstep_put AS (
    INSERT INTO {table} AS t ({first}, {columns}cqrs_revision, cqrs_updated)
    SELECT k, {select}r, u
    FROM lockstep_rest
    WHERE {seen} AND revives IS NOT FALSE
    ORDER BY n
    ON CONFLICT ({key}) DO UPDATE
    SET {set_excluded}cqrs_revision = EXCLUDED.cqrs_revision, cqrs_updated = EXCLUDED.cqrs_updated
    WHERE {meanwhile}
), lockstep_revived AS (
    DELETE FROM {tombstones} d
    WHERE d.replica = {replica} AND d.key = ANY (ARRAY(SELECT {rest_text} FROM lockstep_rest WHERE revives))
)
SELECT n, held, revives FROM lockstep_rest WHERE held IS NOT NULL OR NOT revives`

// postgresReplicaDelete applies DELETEs. It runs under the table's lock, so what
// m sees is what there is. A tombstone keeps the larger revision and the larger
// time of all it has met, the deleted row's too: whatever is older than any of
// them stays away. The result is what was stored before: 0 nothing, 1 a row,
// 2 a tombstone.
const postgresReplicaDelete = `
WITH lockstep_m AS MATERIALIZED (
    SELECT m.*, {m_text} AS key,
           CASE WHEN t.found THEN 1 WHEN d.found THEN 2 ELSE 0 END AS stored,
           CASE WHEN t.found THEN t.cqrs_revision ELSE d.revision END AS held,
           CASE WHEN t.found THEN t.cqrs_updated ELSE d.updated END AS held_updated
    FROM (
        SELECT {values}, r, u, n
        FROM ROWS FROM (json_to_recordset($1) AS ({members}, r bigint, u timestamptz))
             WITH ORDINALITY AS m ({names}, r, u, n)
    ) m
    LEFT JOIN LATERAL (SELECT true AS found, t.cqrs_revision, t.cqrs_updated FROM {table} t WHERE {t_is_m} LIMIT 1) t ON true
    LEFT JOIN LATERAL (SELECT true AS found, d.revision, d.updated FROM {tombstones} d
                       WHERE d.replica = {replica} AND d.key = {m_text} LIMIT 1) d ON true
), lockstep_hit AS MATERIALIZED (
    SELECT * FROM lockstep_m WHERE stored <> 1 OR r > held OR u > held_updated
), lockstep_gone AS (
    DELETE FROM {table} t WHERE {gone}
), lockstep_dead AS (
    INSERT INTO {tombstones} AS d (replica, key, revision, updated)
    SELECT {replica}, key, greatest(r, held), greatest(u, held_updated)
    FROM lockstep_hit
    ORDER BY n
    ON CONFLICT (replica, key) DO UPDATE
    SET revision = greatest(d.revision, EXCLUDED.revision), updated = greatest(d.updated, EXCLUDED.updated),
        deleted_at = clock_timestamp()
    WHERE EXCLUDED.revision > d.revision OR EXCLUDED.updated > d.updated
)
SELECT n, stored, held, held_updated FROM lockstep_m`

// replicaSeen and replicaMeanwhile spell a guard against rest.held and against the row that
// ON CONFLICT found.
var (
	replicaSeen      = [...]string{Newer: "(held IS NULL OR held < r)", NotOlder: "(held IS NULL OR held <= r)", Always: "true"}
	replicaMeanwhile = [...]string{Newer: "t.cqrs_revision < EXCLUDED.cqrs_revision", NotOlder: "t.cqrs_revision <= EXCLUDED.cqrs_revision", Always: "true"}
)
