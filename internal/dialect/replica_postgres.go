package dialect

import (
	"fmt"
	"strconv"
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

// postgresArrays are the types that an array of text spellings is read into just
// as JSON values are, by the types' names. They have no length or precision here:
// a cast to those would cut what the column refuses.
var postgresArrays = map[string]string{
	"smallint": "smallint[]", "integer": "integer[]", "bigint": "bigint[]", "numeric": "numeric[]", "real": "real[]",
	"double precision": "float8[]", "boolean": "boolean[]", "text": "text[]", "character varying": "varchar[]", "character": "bpchar[]",
	"uuid": "uuid[]", "date": "date[]", "timestamp with time zone": "timestamptz[]", "timestamp without time zone": "timestamp[]",
	"time without time zone": "time[]", "inet": "inet[]", "json": "json[]", "jsonb": "jsonb[]",
}

// PostgresArrays reports whether [Replica.PostgresFollow] takes arrays: all
// columns are of types that can travel so.
func (r *Replica) PostgresArrays() bool {
	for _, c := range r.Columns {
		if postgresArrays[c.Base] == "" {
			return false
		}
	}
	return postgresArrays[r.Key.Base] != ""
}

// PostgresFollow returns the statement that writes over rows which hold the
// revision just below, and no others. Its last parameter is the number of
// messages. Before that stand the keys, the chosen columns, the bases, the
// revisions and the times, an array each, or, where [Replica.PostgresArrays] says
// no, the one parameter of PostgresSave with a base in each object. Each result
// row is the place, from 1, of a message that was not written.
func (r *Replica) PostgresFollow(where Where) string {
	members, names, values := r.postgresMembers(where)
	source, count := postgresFollowObjects, 2
	var types []string
	if r.PostgresArrays() {
		source, types = postgresFollowArrays, r.postgresArrays(where)
		count = len(types) + 1
	}
	text := strings.Replace(postgresReplicaFollow, "{source}", source, 1)
	return strings.NewReplacer(append(r.postgresNames(),
		"{members}", members, "{names}", names, "{values}", values, "{arrays}", strings.Join(types, ", "),
		"{count}", fmt.Sprintf("$%d::bigint", count), "{set_m}", r.each(Postgres, where, "%[2]s = m.c%[1]d, "))...).Replace(text)
}

// postgresArrays returns the array parameters of PostgresFollow with their types.
func (r *Replica) postgresArrays(where Where) []string {
	types := []string{postgresArrays[r.Key.Base]}
	for i, c := range r.Columns {
		if where(i) {
			types = append(types, postgresArrays[c.Base])
		}
	}
	types = append(types, "bigint[]", "bigint[]", "timestamptz[]")
	for i := range types {
		types[i] = fmt.Sprintf("$%d::%s", i+1, types[i])
	}
	return types
}

// PostgresSave returns the statement that writes rows behind a guard. Its one
// parameter is a JSON array of objects with the Member names, no key twice, in
// key order. Each result row is about an object that did not simply make a new
// row: its place from 1, the revision its row held (null: there was none) and
// whether it may replace its tombstone (null: there was none).
func (r *Replica) PostgresSave(guard Guard, where Where) string {
	const n = Postgres
	members, names, values := r.postgresMembers(where)
	replacements := append(r.postgresNames(),
		"{members}", members, "{names}", names, "{values}", values,
		"{columns}", r.each(n, where, "%[2]s, "), "{select}", r.each(n, where, "c%[1]d, "),
		"{set_excluded}", r.each(n, where, "%[2]s = EXCLUDED.%[2]s, "),
		"{seen}", replicaSeen[guard], "{meanwhile}", replicaMeanwhile[guard])
	return strings.NewReplacer(replacements...).Replace(postgresReplicaSave)
}

// PostgresDelete returns the statement that deletes rows and leaves tombstones.
// Its one parameter is a JSON array of objects with a key, a revision and a time
// each, no key twice, in key order. Each result row tells an object's place from
// 1 and what was stored before: 0 nothing, 1 a row, 2 a tombstone, with its
// revision and time.
func (r *Replica) PostgresDelete() string {
	members, names, values := r.postgresMembers(r.IsKey)
	gone := "t.{key} = ANY (ARRAY(SELECT k FROM lockstep_hit WHERE stored = 1))"
	if len(r.Rest) > 0 {
		gone = "(" + r.eachKey(Postgres, "t.%[1]s", ", ") + ") IN (SELECT " + r.eachKey(Postgres, "%[2]s", ", ") + " FROM lockstep_hit WHERE stored = 1)"
	}
	text := strings.Replace(postgresReplicaDelete, "{gone}", gone, 1)
	replacements := append(r.postgresNames(), "{members}", members, "{names}", names, "{values}", values)
	return strings.NewReplacer(replacements...).Replace(text)
}

// ReplicaConstraint is the query for the condition that rows which violate a
// constraint or a unique index meet, in SQL over a row r of the table [MemberRows]. Its
// parameters are the quoted table, the name and the conditions of [Replica.OtherKey] and
// [Replica.Moves]. With it come the columns it speaks of, as a JSON array. There is no
// result for one of another kind or table, nor for an index of expressions or of a part
// of the rows, nor where a trigger may change a row before it is written.
//
// A row may refer to itself. Under a constraint that waits for the end of the statement
// rows may exchange their values, so only a value of a row that is not among these is
// taken for sure.
const ReplicaConstraint = `
SELECT CASE c.contype
       WHEN 'c' THEN 'NOT (' || pg_get_expr(c.conbin, c.conrelid) || ')'
       WHEN 'f' THEN string_agg('r.' || quote_ident(a.attname) || ' IS NOT NULL', ' AND ')
                     || ' AND NOT EXISTS (SELECT FROM ' || c.confrelid::regclass || ' p WHERE '
                     || string_agg('p.' || quote_ident(f.attname) || ' = r.' || quote_ident(a.attname), ' AND ') || ')'
                     || CASE WHEN c.confrelid = c.conrelid
                        THEN ' AND NOT (' || string_agg('r.' || quote_ident(f.attname) || ' = r.' || quote_ident(a.attname), ' AND ') || ')'
                        ELSE '' END
       END,
       CASE WHEN c.confrelid = c.conrelid
       THEN (SELECT json_agg(s.attname) FROM pg_attribute s WHERE s.attrelid = c.conrelid AND s.attnum = ANY (c.conkey || c.confkey))
       ELSE json_agg(a.attname) END
FROM pg_constraint c
LEFT JOIN LATERAL unnest(c.conkey, c.confkey) k (own, other) ON true
LEFT JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.own
LEFT JOIN pg_attribute f ON f.attrelid = c.confrelid AND f.attnum = k.other
WHERE c.conrelid = to_regclass($1) AND c.conname = $2 AND c.contype IN ('c', 'f')` + postgresAsSent + `
GROUP BY c.oid, c.contype, c.conbin, c.conrelid, c.confrelid, c.conkey, c.confkey
UNION ALL
SELECT 'EXISTS (SELECT FROM ' || i.indrelid::regclass || ' o WHERE ' || $3 || ' AND '
       || string_agg('o.' || quote_ident(a.attname) || ' = r.' || quote_ident(a.attname), ' AND ')
       || CASE WHEN i.indimmediate THEN '' ELSE ' AND NOT ' || $4 END || ')',
       json_agg(a.attname)
FROM pg_index i
JOIN pg_class x ON x.oid = i.indexrelid AND x.relname = $2
CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k (own, n)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.own
WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indexprs IS NULL AND i.indpred IS NULL AND k.n <= i.indnkeyatts` + postgresAsSent + `
GROUP BY i.indrelid, i.indimmediate`

// postgresAsSent: no trigger acts before rows of the table are written. The types are
// bits: 2 is BEFORE, 4 INSERT and 16 UPDATE.
const postgresAsSent = `
  AND NOT EXISTS (SELECT FROM pg_trigger g
                  WHERE g.tgrelid = to_regclass($1) AND NOT g.tgisinternal AND g.tgenabled <> 'D' AND g.tgtype & 2 <> 0 AND g.tgtype & 20 <> 0)`

// MemberRows is the table of the rows that [Replica.PostgresFind] asks about.
const MemberRows = "lockstep_r"

// Moves returns the condition that the row o is one of those asked about.
func (r *Replica) Moves() string {
	return "EXISTS (SELECT FROM " + MemberRows + " x WHERE " + r.eachKey(Postgres, "x.%[1]s = o.%[1]s", " AND ") + ")"
}

// OtherKey returns the condition that rows o and r have different keys.
func (r *Replica) OtherKey() string {
	return "(" + r.eachKey(Postgres, "o.%[1]s", ", ") + ") <> (" + r.eachKey(Postgres, "r.%[1]s", ", ") + ")"
}

// PostgresFind returns the query for the objects that meet a condition over a
// row r of the key and the chosen columns, but for those that are stale anyway. Its
// parameter is that of [Replica.PostgresSave], but with the members MemberHeld and
// MemberDead, its result their places from 1.
func (r *Replica) PostgresFind(condition string, where Where) string {
	members, names, _ := r.postgresMembers(where)
	var columns strings.Builder
	for i, c := range r.Columns {
		if !where(i) {
			continue
		}
		name := MemberColumn + strconv.Itoa(i)
		_, value := postgresMember(c, "m."+name)
		fmt.Fprintf(&columns, ", %s AS %s", value, Postgres.QuoteColumn(c.Name))
	}
	_, key := postgresMember(r.Key, "m."+MemberKey)
	return fmt.Sprintf(`
WITH `+MemberRows+` AS MATERIALIZED (
    SELECT %s AS %s%s, m.n AS lockstep_n, m.h AS lockstep_held, m.d AS lockstep_dead, %s AS lockstep_text
    FROM ROWS FROM (json_to_recordset($1) AS (%s, h bigint, d bigint)) WITH ORDINALITY AS m (%s, h, d, n)
)
SELECT lockstep_n
FROM `+MemberRows+` r
WHERE (%s)
  AND NOT EXISTS (SELECT FROM %s t WHERE %s AND t.cqrs_revision >= lockstep_held)
  AND NOT EXISTS (SELECT FROM %s d WHERE d.replica = %s AND d.key = lockstep_text AND d.revision >= lockstep_dead)
ORDER BY lockstep_n`,
		key, Postgres.QuoteColumn(r.Key.Name), columns.String(), r.keyText("m."), members, names, condition,
		Postgres.Quote(r.Table), r.eachKey(Postgres, "t.%[1]s = r.%[1]s", " AND "), TombstoneTable, Postgres.QuoteText(r.Table))
}

// PostgresTry returns a statement that only converts one value, given as a JSON
// array of one object with the member MemberColumn, to the column's type. It
// finds the column that made a larger statement fail.
func PostgresTry(c Column) string {
	member, value := postgresMember(c, MemberColumn)
	return fmt.Sprintf(`SELECT %s IS NULL FROM json_to_recordset($1) AS m (%s %s)`, value, MemberColumn, member)
}

// postgresMembers returns the members that json_to_recordset is to read, with
// their types; their names; and the expressions for the columns' values under
// those names.
func (r *Replica) postgresMembers(where Where) (members, names, values string) {
	var m, n, v strings.Builder
	member, value := postgresMember(r.Key, MemberKey)
	fmt.Fprintf(&m, "%s %s", MemberKey, member)
	n.WriteString(MemberKey)
	fmt.Fprintf(&v, "%s AS %s", value, MemberKey)
	for i, c := range r.Columns {
		if !where(i) {
			continue
		}
		name := MemberColumn + strconv.Itoa(i)
		member, value := postgresMember(c, name)
		fmt.Fprintf(&m, ", %s %s", name, member)
		fmt.Fprintf(&n, ", %s", name)
		fmt.Fprintf(&v, ", %s AS %s", value, name)
	}
	return m.String(), n.String(), v.String()
}

func (r *Replica) postgresNames() []string {
	return []string{
		"{table}", Postgres.Quote(r.Table), "{replica}", Postgres.QuoteText(r.Table), "{tombstones}", TombstoneTable,
		"{key}", r.eachKey(Postgres, "%[1]s", ", "), "{first}", Postgres.QuoteColumn(r.Key.Name),
		"{t_is_m}", r.eachKey(Postgres, "t.%[1]s = m.%[2]s", " AND "),
		"{h_text}", r.keyText("h."), "{m_text}", r.keyText("m."), "{rest_text}", r.keyText(""),
	}
}

// postgresMember returns the type in which json_to_recordset is to read a
// member and the expression for the column's value. Binary travels as base64.
func postgresMember(c Column, name string) (member, value string) {
	if c.Base == "bytea" {
		return "text", "decode(" + name + ", 'base64')"
	}
	return c.Type, name
}

// keyText spells a key as a tombstone's key: one text for equal keys. That of a
// composite key is a JSON array. The prefix leads to the values.
func (r *Replica) keyText(prefix string) string {
	columns, members := r.keys()
	if len(columns) == 1 {
		return keyText(columns[0], prefix+members[0])
	}
	for i, c := range columns {
		members[i] = keyText(c, prefix+members[i])
	}
	return "array_to_json(ARRAY[" + strings.Join(members, ", ") + "])::text"
}

// keyText spells one column of a key.
func keyText(key Column, expression string) string {
	switch key.Base {
	case "text":
		return expression
	case "numeric": // 1.0 and 1.00 are one key
		return "trim_scale(" + expression + ")::text"
	}
	return expression + "::text"
}
