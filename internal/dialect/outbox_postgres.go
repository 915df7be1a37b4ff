package dialect

import "github.com/lockstep-go/lockstep/event"

// postgresMarked turns the lists into rows. Names that stand where a table's
// could start with lockstep_, so that no table is hidden by them.
const postgresMarked = `
WITH lockstep_marked AS (
    SELECT {marked_keys}, m.*
    FROM unnest({lists}) WITH ORDINALITY AS m ({list_names}, ord)
)`

// postgresSaved: the UPDATE holds the row lock from before the outbox id is drawn
// until commit, so the ids of one key grow in the order of its commits.
const postgresSaved = `, lockstep_changed AS (
    UPDATE {table} AS t
    SET cqrs_revision = {next_revision}, cqrs_updated = {next_updated}
    FROM lockstep_marked m LEFT JOIN outbox_tombstones d ON d.entity = {entity} AND d.key = {marked_text}
    WHERE {match}
    RETURNING {returning}, t.cqrs_revision, t.cqrs_updated, {inside} AS inside, {fresh} AS fresh, {mark}
)`

// postgresDeleting is for rows that the caller deletes next. It raises the
// row's own revision too, in case it is not deleted after all.
const postgresDeleting = `, lockstep_changed AS (
    UPDATE {table} AS t
    SET cqrs_revision = {next_revision}, cqrs_updated = {next_updated}
    FROM lockstep_marked m LEFT JOIN outbox_tombstones d ON d.entity = {entity} AND d.key = {marked_text}
    WHERE {match}
    RETURNING {returning_deleted}, t.cqrs_revision, t.cqrs_updated, true AS inside, false AS fresh, {mark}
)` + postgresBury

const postgresDeleted = `, lockstep_changed AS (
    DELETE FROM {table} AS t
    USING lockstep_marked m LEFT JOIN outbox_tombstones d ON d.entity = {entity} AND d.key = {marked_text}
    WHERE {match}
    RETURNING {returning_deleted}, {next_revision} AS cqrs_revision, {next_updated} AS cqrs_updated,
              true AS inside, false AS fresh, {mark}
)` + postgresBury

// postgresRead is the rows as they are, in the shape of the changed ones.
const postgresRead = `, lockstep_changed AS (
    SELECT {returning}, t.cqrs_revision, t.cqrs_updated, true AS inside, false AS fresh, {mark}
    FROM {table} AS t JOIN lockstep_marked m ON {match}
)`

const postgresBury = `, lockstep_buried AS (
    INSERT INTO outbox_tombstones AS d (entity, key, revision, deleted_at)
    SELECT {entity}, {key_text}, c.cqrs_revision, c.cqrs_updated FROM lockstep_changed c
    ON CONFLICT (entity, key) DO UPDATE SET revision = EXCLUDED.revision, deleted_at = EXCLUDED.deleted_at
)`

// postgresBuryOutside remembers of a row outside Where that replicas do not have
// it: its tombstone is as old as the row's revision.
const postgresBuryOutside = `, lockstep_buried AS (
    INSERT INTO outbox_tombstones AS d (entity, key, revision, deleted_at)
    SELECT {entity}, {key_text}, c.cqrs_revision, c.cqrs_updated FROM lockstep_changed c WHERE NOT c.inside
    ON CONFLICT (entity, key) DO UPDATE SET revision = EXCLUDED.revision, deleted_at = EXCLUDED.deleted_at
)`

// postgresInsert: the sort makes the change finish before the first id is drawn,
// and OFFSET 0 keeps what is inside from being computed twice.
const postgresInsert = `
INSERT INTO outbox (topic, key, payload, metadata)
SELECT {topic}, e.key, {payload}, $3::jsonb || jsonb_build_object({event_id_header}, e.event_id)
FROM (
    SELECT {key_text} AS key, convert_to({envelope}, 'UTF8') AS payload, c.event_id
    FROM (SELECT * FROM lockstep_changed c{wanted} ORDER BY c.ord OFFSET 0) c
    OFFSET 0
) e
RETURNING metadata ->> {event_id_header}`

// postgresSaveOne takes half of the time of postgresSaved with one key. Without
// such a key it tries to insert an outbox row without one, which is refused: so it
// can be sent together with the COMMIT.
const postgresSaveOne = `
WITH lockstep_changed AS (
    UPDATE {table} AS t
    SET cqrs_revision = {next_revision}, cqrs_updated = {next_updated}
    FROM (SELECT {one_key}) m
        LEFT JOIN outbox_tombstones d ON d.entity = {entity} AND d.key = {marked_text}
    WHERE {match}
    RETURNING {returning}, t.cqrs_revision, t.cqrs_updated
)
INSERT INTO outbox (topic, key, payload, metadata)
SELECT {topic}, e.key, {payload}, $2::text::jsonb
FROM (
    SELECT {key_text} AS key, convert_to({envelope}, 'UTF8') AS payload
    FROM (SELECT) AS one LEFT JOIN lockstep_changed c ON true
    OFFSET 0
) e`

// postgresSync inserts a SYNC of the rows that the transaction has locked. It
// raises no revision. Its parameters are the keys, the event ids, the topic and
// the metadata without the event id.
const postgresSync = `
INSERT INTO outbox (topic, key, payload, metadata)
SELECT $3, {key_text}, convert_to({envelope}, 'UTF8'), $4::jsonb || jsonb_build_object({event_id_header}, c.event_id)
FROM (SELECT * FROM lockstep_changed c ORDER BY c.ord OFFSET 0) c`

// postgresInsertInside also returns the ids of those that are not to be sent:
// their rows were found.
const postgresInsertInside = `, lockstep_sent (event_id) AS (` + postgresInsert + `
)
SELECT event_id FROM lockstep_sent UNION ALL SELECT c.event_id FROM lockstep_changed c WHERE NOT ({sent})`

const (
	postgresFound = `
SELECT c.event_id FROM lockstep_changed c`
	postgresRows = `
SELECT c.ord, {key_text}, {pk}, {key_object}, c.cqrs_revision, {updated}, c.inside, c.fresh, {data}, {tracked}, {unfit}
FROM lockstep_changed c
ORDER BY c.ord`
	postgresRemove = `
DELETE FROM {table} AS t USING lockstep_marked m WHERE {match}`

	postgresSame = `
SELECT min(m.ord) OVER (PARTITION BY {marked_columns})
FROM lockstep_marked m
ORDER BY m.ord`

	// postgresKnown: after it, the row's first revision is not one more than the
	// tombstone's.
	postgresKnown = `
INSERT INTO outbox_tombstones (entity, key, revision, deleted_at)
SELECT {entity}, {row_text}, -1, t.cqrs_updated
FROM {table} AS t JOIN lockstep_marked m ON {match}
WHERE t.cqrs_revision = 0
ON CONFLICT (entity, key) DO NOTHING`

	// postgresTrack locks in the order of the keys, so that two who track the same
	// rows wait for each other instead of getting into a deadlock.
	postgresTrack = `
SELECT m.ord, {row_text}, {row_tracked}
FROM {table} AS t JOIN lockstep_marked m ON {match}
ORDER BY {row_keys}
FOR NO KEY UPDATE OF t`

	// postgresCheck has a parameter so that the server takes one statement only.
	postgresCheck = `
SELECT count(*) FROM {table} AS lockstep_row WHERE $1::boolean AND ({where}
)`
)

// PostgresInsertOutbox inserts rows made in the process: topics and keys as
// arrays, payloads and metadata as JSON texts with a record separator between,
// which JSON cannot contain, so nothing needs to be escaped.
const PostgresInsertOutbox = `
INSERT INTO outbox (topic, key, payload, metadata)
SELECT n.topic, n.key, convert_to(n.payload, 'UTF8'), n.metadata::jsonb
FROM unnest($1::text[], $2::text[], string_to_array($3, chr(30)), string_to_array($4, chr(30)))
     WITH ORDINALITY AS n (topic, key, payload, metadata, ord)
ORDER BY n.ord`

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

// postgresFresh: the last thing that replicas were told of the key is that it is
// not there, or nothing at all. RETURNING has the raised revision.
const postgresFresh = `t.cqrs_revision = COALESCE(d.revision, 0) + 1`

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
// the change as k0, k1, … (the key), f0, f1, … and p0, p1, … (tracked), so that
// no name can clash.
func PostgresEntity(e EntityTable) EntitySQL {
	b := postgresBuilder{EntityTable: e, signal: event.Save}
	bury, insert := "", postgresInsert
	if e.Where != "" {
		insert = postgresInsertInside
		if !e.LeaveSilently {
			bury = postgresBuryOutside
		}
	}
	operation := func(b postgresBuilder, change, insert string) Operation {
		if e.Muted {
			insert = postgresFound
		}
		return Operation{
			Record: b.build(postgresMarked+change+insert, withEvents),
			Change: b.build(postgresMarked+change+postgresRows, keysOnly),
		}
	}
	d, y := b, b
	d.signal, y.signal = event.Delete, event.Sync
	one, known := "", ""
	if bury != "" {
		known = b.build(postgresMarked+postgresKnown, keysOnly)
	}
	if e.Where == "" && !e.Muted {
		one = b.build(postgresSaveOne, oneEvent)
	}
	return EntitySQL{
		SaveOne: one, Known: known,
		Sync: Operation{
			Record: y.build(postgresMarked+postgresRead+postgresSync, withTopic),
			Change: y.build(postgresMarked+postgresRead+postgresRows, keysOnly),
		},
		Save:     operation(b, postgresSaved+bury, insert),
		Delete:   operation(d, postgresDeleted, postgresInsert),
		Deleting: operation(d, postgresDeleting, postgresInsert),
		Remove:   b.build(postgresMarked+postgresRemove, keysOnly),
		Same:     b.build(postgresMarked+postgresSame, keysOnly),
		Track:    b.build(postgresMarked+postgresTrack, keysOnly),
		Check:    b.build(postgresCheck, keysOnly),
	}
}
