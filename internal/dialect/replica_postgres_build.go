package dialect

import (
	"fmt"
	"strconv"
	"strings"
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
