package dialect

import (
	"strings"

	"github.com/lockstep-go/lockstep/event"
)

// EntityTable is what the statements about one entity are built from.
type EntityTable struct {
	CQRSID string
	Table  string
	Key    Column
	Fields []Column
	// TTL is how many seconds an event lives; 0 means for ever.
	TTL int64
}

// EntitySQL is the write side's statements for one entity. Each takes the keys
// and the event ids as two list parameters of equal length, and inserts one
// outbox row a key in their order. On PostgreSQL it returns their event ids.
type EntitySQL struct {
	Save, Delete, Deleting string
	// SaveOne is Save for one key and its event id, each a plain parameter. Its error
	// is one of IsNoSuchKey when there is no such key. PostgreSQL only.
	SaveOne string
	// Sync takes rows as they are, and on PostgreSQL the topic and the metadata as
	// two more parameters.
	Sync string
}

// postgresMarked turns the two lists into rows. Names that stand where a table's
// could start with lockstep_, so that no table is hidden by them.
const postgresMarked = `
WITH lockstep_marked AS (
    SELECT m.k::{key_type} AS k, m.event_id, m.ord
    FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS m (k, event_id, ord)
)`

// postgresSave: the UPDATE holds the row lock from before the outbox id is drawn
// until commit, so the ids of one key grow in the order of its commits. The sort
// makes it finish before the first id is drawn.
const postgresSave = postgresMarked + `, lockstep_changed AS (
    UPDATE {table} AS t
    SET cqrs_revision = {next_revision}, cqrs_updated = {next_updated}
    FROM lockstep_marked m LEFT JOIN outbox_tombstones d ON d.entity = {entity} AND d.key = m.k::text
    WHERE t.{key} = m.k
    RETURNING {returning}, t.cqrs_revision, t.cqrs_updated, m.event_id, m.ord
)
` + postgresInsert

// postgresSaveOne takes half of the time of postgresSave with one key. Without
// such a key it tries to insert an outbox row without one, which is refused: so it
// can be sent together with the COMMIT.
const postgresSaveOne = `
WITH lockstep_changed AS (
    UPDATE {table} AS t
    SET cqrs_revision = {next_revision}, cqrs_updated = {next_updated}
    FROM (SELECT CAST($1::text AS {key_type}) AS k) m
        LEFT JOIN outbox_tombstones d ON d.entity = {entity} AND d.key = m.k::text
    WHERE t.{key} = m.k
    RETURNING {returning}, t.cqrs_revision, t.cqrs_updated
)
INSERT INTO outbox (topic, key, payload, metadata)
SELECT {topic}, c.f0::text, convert_to({envelope}, 'UTF8'), jsonb_build_object({event_id_header}, $2::text)
FROM (SELECT) AS one LEFT JOIN lockstep_changed c ON true`

// postgresDeleting is for rows that the caller deletes next. It raises the
// row's own revision too, in case it is not deleted after all.
const postgresDeleting = postgresMarked + `, lockstep_changed AS (
    UPDATE {table} AS t
    SET cqrs_revision = {next_revision}, cqrs_updated = {next_updated}
    FROM lockstep_marked m LEFT JOIN outbox_tombstones d ON d.entity = {entity} AND d.key = m.k::text
    WHERE t.{key} = m.k
    RETURNING t.{key} AS f0, t.cqrs_revision, t.cqrs_updated, m.event_id, m.ord
)` + postgresBury + postgresInsert

const postgresDelete = postgresMarked + `, lockstep_changed AS (
    DELETE FROM {table} AS t
    USING lockstep_marked m LEFT JOIN outbox_tombstones d ON d.entity = {entity} AND d.key = m.k::text
    WHERE t.{key} = m.k
    RETURNING t.{key} AS f0, {next_revision} AS cqrs_revision, {next_updated} AS cqrs_updated, m.event_id, m.ord
)` + postgresBury + postgresInsert

const postgresBury = `, lockstep_buried AS (
    INSERT INTO outbox_tombstones AS d (entity, key, revision, deleted_at)
    SELECT {entity}, c.f0::text, c.cqrs_revision, c.cqrs_updated FROM lockstep_changed c
    ON CONFLICT (entity, key) DO UPDATE SET revision = EXCLUDED.revision, deleted_at = EXCLUDED.deleted_at
)
`

const postgresInsert = `
INSERT INTO outbox (topic, key, payload, metadata)
SELECT {topic}, c.f0::text, convert_to({envelope}, 'UTF8'), jsonb_build_object({event_id_header}, c.event_id)
FROM lockstep_changed c
ORDER BY c.ord
RETURNING metadata ->> {event_id_header}`

// PostgresPublish inserts messages that are not about an entity, in order: lists
// of topics, keys, payloads (hexadecimal) and metadata.
const PostgresPublish = `
INSERT INTO outbox (topic, key, payload, metadata)
SELECT m.topic, m.key, decode(m.payload, 'hex'), m.metadata::jsonb
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS m (topic, key, payload, metadata, ord)
ORDER BY m.ord`

// Revisions go on from an earlier row's under the key, whose tombstone says where
// it stopped, also when the new row came with a revision of its own. The stamp is
// never older than theirs, even if the clock was set back.
const (
	postgresNextRevision = `GREATEST(t.cqrs_revision, d.revision) + 1`
	postgresNextUpdated  = `GREATEST(clock_timestamp(), t.cqrs_updated, d.deleted_at)`
)

// keyCast is the type a key is read as: without length and precision, which
// would cut it to that of another row.
func keyCast(c Column) string {
	switch c.Base {
	case "character varying":
		return "text"
	case "character": // alone it would be character(1)
		return "bpchar"
	case "numeric":
		return "numeric"
	}
	return c.Type
}

// PostgresEntity builds the statements of an entity. The columns come back from
// the change as f0 (the key), f1, f2, … so that no name can clash.
func PostgresEntity(e EntityTable) EntitySQL {
	n := Postgres
	returning := []string{"t." + n.QuoteColumn(e.Key.Name) + " AS f0"}
	data := []string{}
	for i, c := range e.Fields {
		alias := "f" + itoa(i+1)
		returning = append(returning, "t."+n.QuoteColumn(c.Name)+" AS "+alias)
		data = append(data, postgresValue("c."+alias, c)+" AS "+n.QuoteColumn(c.Name))
	}
	version := []string{
		"c.cqrs_revision AS " + event.FieldRevision,
		postgresTimestamptz("c.cqrs_updated") + " AS " + event.FieldUpdated,
	}
	deleted := []string{"c.f0 AS " + event.FieldDeletedKey}
	if e.Key.Name != event.FieldDeletedKey {
		deleted = append(deleted, "c.f0 AS "+n.QuoteColumn(e.Key.Name))
	}
	build := func(template string, signal event.Signal, data []string) string {
		values := strings.NewReplacer(
			"{table}", n.Quote(e.Table),
			"{key}", n.QuoteColumn(e.Key.Name),
			"{key_type}", keyCast(e.Key),
			"{entity}", n.QuoteText(e.CQRSID),
			"{topic}", n.QuoteText(event.Topic(e.CQRSID)),
			"{returning}", strings.Join(returning, ", "),
			"{event_id_header}", n.QuoteText(event.HeaderEventID),
			"{envelope}", postgresEnvelope(e, signal, append(data, version...)),
		)
		// These two hold placeholders themselves.
		revisions := strings.NewReplacer("{next_revision}", postgresNextRevision, "{next_updated}", postgresNextUpdated)
		return values.Replace(revisions.Replace(template))
	}
	return EntitySQL{
		Save:     build(postgresSave, event.Save, data),
		SaveOne:  build(postgresSaveOne, event.Save, data),
		Delete:   build(postgresDelete, event.Delete, deleted),
		Deleting: build(postgresDeleting, event.Delete, deleted),
		Sync:     build(postgresSync, event.Sync, data),
	}
}

// postgresEnvelope is the expression for an event's body: constant text around
// what the database itself turns into JSON.
func postgresEnvelope(e EntityTable, signal event.Signal, data []string) string {
	n := Postgres
	head := event.AppendString([]byte(`{"signal_type":`), string(signal))
	head = event.AppendString(append(head, `,"cqrs_id":`...), e.CQRSID)
	head = append(head, `,"instance_data":`...)
	expires := n.QuoteText(`null`)
	if e.TTL > 0 {
		expires = `to_char((clock_timestamp() + interval '` + itoa(int(e.TTL)) + ` seconds') AT TIME ZONE 'UTC', '"\""YYYY-MM-DD"T"HH24:MI:SS"+00:00\""')`
	}
	return n.QuoteText(string(head)) +
		" || (SELECT row_to_json(r.*)::text FROM (SELECT " + strings.Join(data, ", ") + ") r) || " +
		n.QuoteText(`,"previous_data":null,"instance_pk":`) + " || to_json(c.f0)::text || " +
		n.QuoteText(`,"correlation_id":null,"retries":0,"expires":`) + " || " + expires + " || " +
		n.QuoteText(`,"meta":{}}`)
}

// postgresValue is the expression that makes a column's value fit for the wire.
func postgresValue(column string, c Column) string {
	switch c.Base {
	case "timestamp with time zone":
		return "CASE WHEN isfinite(" + column + ") THEN " + postgresTimestamptz(column) + postgresEra(column, "timestamptz '0001-01-01 00:00:00+00'") + " END"
	case "timestamp without time zone":
		return "CASE WHEN isfinite(" + column + ") THEN to_char(" + column + ", 'YYYY-MM-DD HH24:MI:SS.US')" + postgresEra(column, "timestamp '0001-01-01'") + " END"
	case "date":
		return "CASE WHEN isfinite(" + column + ") THEN " + column + " END"
	case "real", "double precision", "numeric":
		return "CASE WHEN " + column + " NOT IN ('NaN', 'Infinity', '-Infinity') THEN " + column + " END"
	case "bytea":
		return "translate(encode(" + column + ", 'base64'), E'\\n', '')"
	case "money": // its text depends on the session's locale
		return column + "::numeric"
	}
	if name := c.Base[strings.LastIndexByte(c.Base, '.')+1:]; name == "hstore" {
		return column + "::text" // its cast to json gives what it cannot read back
	}
	return column
}

// postgresEra is the expression that marks times before the first year, as the
// database reads them.
func postgresEra(column, first string) string {
	return " || CASE WHEN " + column + " < " + first + " THEN ' BC' ELSE '' END"
}

func postgresTimestamptz(column string) string {
	return "to_char(" + column + " AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US\"+00:00\"')"
}
