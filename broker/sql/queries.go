package sql

import (
	"strings"

	"github.com/lib/pq"
)

// Tables is the SQL that makes the broker's tables in a schema, for roles that may not: it is run
// once by one who may, who then grants the broker's role USAGE on the schema and its sequences, and
// SELECT, INSERT, UPDATE and DELETE on the tables. Repeating it changes nothing.
//
// The messages table has watermill-sql's columns, and three more.
func Tables(schema string) string {
	return "CREATE SCHEMA IF NOT EXISTS " + pq.QuoteIdentifier(schema) + ";\n" + inSchema(tables, schema)
}

func inSchema(text, schema string) string {
	return strings.ReplaceAll(text, "{schema}", pq.QuoteIdentifier(schema))
}

// A queue's id is never given twice, so that what was stored while the queue was deleted cannot turn
// up in its successor.
//
// The index for reading has the messages that nobody holds, and no others: a reader does not pass
// over those in consumers' hands or waiting for their time. The messages table lives on updates and
// deletions, so it is vacuumed by their number, not by a share of what happens to lie in it.
const tables = `CREATE TABLE IF NOT EXISTS {schema}.queues (
	id   bigserial PRIMARY KEY,
	name text NOT NULL UNIQUE
);
CREATE TABLE IF NOT EXISTS {schema}.bindings (
	topic text   NOT NULL,
	queue bigint NOT NULL REFERENCES {schema}.queues (id) ON DELETE CASCADE,
	PRIMARY KEY (topic, queue)
);
CREATE TABLE IF NOT EXISTS {schema}.consumers (
	id          bigserial PRIMARY KEY,
	queue       text NULL, -- NULL: somebody looks into one
	alive_until timestamptz NOT NULL
);
CREATE TABLE IF NOT EXISTS {schema}.messages (
	"offset"   bigserial PRIMARY KEY,
	uuid       text NOT NULL,
	payload    bytea NOT NULL,
	metadata   json NULL,
	created_at timestamptz NOT NULL DEFAULT now(),
	queue      bigint NOT NULL,
	holder     bigint NULL, -- who has it: a consumer, 0: the clock, NULL: nobody
	due_at     timestamptz NULL,
	expires_at timestamptz NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX IF NOT EXISTS messages_ready ON {schema}.messages (queue, "offset") WHERE holder IS NULL;
CREATE INDEX IF NOT EXISTS messages_held ON {schema}.messages (holder) WHERE holder IS NOT NULL;
CREATE INDEX IF NOT EXISTS messages_due ON {schema}.messages (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS messages_expiring ON {schema}.messages (expires_at) WHERE expires_at IS NOT NULL;
`

// queries are the statements with their schema in them.
type queries struct {
	missing, lockTables, tables string
	store, bound, hasBindings   string
	addQueue, addBindings       string
	lockQueue, lockBindings     string
	emptyQueue, deleteQueue     string
	register, keepAlive, forget string
	read, readAll, hold, remove string
	putBack, putAllBack         string
	due, bury, orphans, expired string
	inspect, newest, browse     string
}

func newQueries(schema string) *queries {
	in := func(text string) string { return inSchema(text, schema) }
	return &queries{
		missing: in(missingTables), lockTables: lockTables, tables: in(tables),
		store: in(store), bound: in(bound),
		addQueue: in(addQueue), addBindings: in(addBindings),
		lockQueue: in(lockQueue), lockBindings: in(lockBindings), emptyQueue: in(emptyQueue), deleteQueue: in(deleteQueue),
		register: in(register), keepAlive: in(keepAlive), forget: in(forget),
		read: in(read), readAll: in(strings.ReplaceAll(read, passingOver, "")), hold: in(hold), remove: in(remove), putBack: in(putBack), putAllBack: in(putAllBack),
		due: in(due), bury: in(bury), orphans: in(orphans), expired: in(expired),
		inspect: in(inspect), newest: in(newest), browse: in(browse), hasBindings: in(hasBindings),
	}
}

// Tables and topology.
const (
	readCommitted = `SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED`

	// Whether the tables are there, and whether the schema is. Seen without any right on them.
	missingTables = `
SELECT count(c.oid) < 4, NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND c.relname IN ('queues', 'bindings', 'consumers', 'messages')`

	// CREATE … IF NOT EXISTS fails when two do it at once. The number means nothing.
	lockTables = `SELECT pg_advisory_xact_lock(7020184913)`

	limitSilence = `SELECT set_config('idle_in_transaction_session_timeout', $1, true)`

	// Also where the queue is there: the lock keeps it until it is bound.
	addQueue = `INSERT INTO {schema}.queues (name) VALUES ($1) ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id`

	addBindings = `INSERT INTO {schema}.bindings (topic, queue) SELECT unnest($2::text[]), $1 ON CONFLICT DO NOTHING`

	lockQueue = `SELECT id FROM {schema}.queues WHERE name = $1 FOR UPDATE`

	// Waits for the statements that store messages now, and holds up those that come: nothing is
	// stored for a queue that is being deleted.
	lockBindings = `LOCK TABLE {schema}.bindings IN ACCESS EXCLUSIVE MODE`

	emptyQueue = `DELETE FROM {schema}.messages WHERE queue = $1`

	deleteQueue = `DELETE FROM {schema}.queues WHERE id = $1`

	hasBindings = `
SELECT EXISTS (SELECT FROM {schema}.queues WHERE name = $1) AND count(*) = cardinality($2::text[])
FROM {schema}.bindings b JOIN {schema}.queues q ON q.id = b.queue
WHERE q.name = $1 AND b.topic = ANY ($2::text[])`

	bound = `SELECT EXISTS (SELECT FROM {schema}.bindings WHERE topic = $1)`
)

// Publishing.
const (
	// One statement stores each message once for every queue bound to its topic, and returns the
	// numbers of those that no queue is bound for: both see the same bindings. Its commit is on the
	// disk when it returns, whatever the default of the database or the role is. Offsets are drawn
	// in the order of the messages.
	store = `
WITH sent AS MATERIALIZED (
	SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::text[], $5::bigint[], $6::bigint[])
		WITH ORDINALITY AS s (topic, uuid, payload, metadata, delay, life, n)
), stored AS (
	INSERT INTO {schema}.messages (queue, uuid, payload, metadata, holder, due_at, expires_at)
	SELECT b.queue, s.uuid, s.payload, s.metadata::json,
		CASE WHEN s.delay > 0 THEN 0 END,
		CASE WHEN s.delay > 0 THEN now() + s.delay * interval '1 ms' END,
		CASE WHEN s.life > 0 THEN now() + (s.delay + s.life) * interval '1 ms' END
	FROM sent s JOIN {schema}.bindings b ON b.topic = s.topic
	WHERE (SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit')
		WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, true)) <> 'off'
	ORDER BY s.n
)
SELECT n FROM sent WHERE NOT EXISTS (SELECT FROM {schema}.bindings b WHERE b.topic = sent.topic)`
)

// Consuming.
const (
	register = `
INSERT INTO {schema}.consumers (queue, alive_until)
VALUES ($1, clock_timestamp() + $2 * interval '1 ms') RETURNING id`

	// A consumer that was taken for dead is entered again, under its old number: what it still
	// holds is its own.
	keepAlive = `
INSERT INTO {schema}.consumers (id, queue, alive_until)
VALUES ($1, $2, clock_timestamp() + $3 * interval '1 ms')
ON CONFLICT (id) DO UPDATE SET alive_until = excluded.alive_until`

	forget = `DELETE FROM {schema}.consumers WHERE id = $1`

	// What others are reading at this moment is passed over, not waited for. Nobody else could have it
	// if this process were frozen now, so the server ends the transaction then. Without passingOver it
	// waits.
	passingOver = ` SKIP LOCKED`

	read = `
SELECT "offset", uuid, payload, metadata FROM {schema}.messages
WHERE queue = (SELECT id FROM {schema}.queues WHERE name = $1)
	AND holder IS NULL AND "offset" > $2 AND (expires_at IS NULL OR expires_at > now())
	AND (SELECT set_config('idle_in_transaction_session_timeout', $4, true)) <> ''
ORDER BY "offset" LIMIT $3 FOR UPDATE` + passingOver

	// If the server loses this, the messages are delivered again: no need to wait for the disk.
	hold = `
UPDATE {schema}.messages SET holder = $1
WHERE "offset" = ANY ($2::bigint[]) AND (SELECT set_config('synchronous_commit', 'off', true)) = 'off'`

	// Whoever holds a message now: it has been acknowledged.
	remove = `DELETE FROM {schema}.messages WHERE "offset" = ANY ($1::bigint[])`

	// Only what is the holder's. It is not asked for in the condition: that would pass over a row that
	// a transaction in doubt is still about to mark, for which this waits.
	putBack = `UPDATE {schema}.messages SET holder = nullif(holder, $2) WHERE "offset" = ANY ($1::bigint[])`

	putAllBack = `UPDATE {schema}.messages SET holder = NULL WHERE holder = $1`
)

// Upkeep. Several processes do it at once and leave to each other what the other is at.
const (
	due = `
UPDATE {schema}.messages SET holder = NULL, due_at = NULL
WHERE "offset" IN (
	SELECT "offset" FROM {schema}.messages WHERE due_at <= clock_timestamp()
	ORDER BY due_at LIMIT 1000 FOR UPDATE SKIP LOCKED
)`

	bury = `DELETE FROM {schema}.consumers WHERE alive_until < clock_timestamp()`

	orphans = `
UPDATE {schema}.messages SET holder = NULL
WHERE "offset" IN (
	SELECT m."offset" FROM {schema}.messages m
	WHERE m.holder > 0 AND NOT EXISTS (SELECT FROM {schema}.consumers c WHERE c.id = m.holder)
	LIMIT 5000 FOR UPDATE OF m SKIP LOCKED
)`

	// What somebody holds has been delivered in time.
	expired = `
DELETE FROM {schema}.messages
WHERE "offset" IN (
	SELECT "offset" FROM {schema}.messages
	WHERE expires_at <= clock_timestamp() AND (holder IS NULL OR holder = 0)
	LIMIT 1000 FOR UPDATE SKIP LOCKED
)`
)

// Looking.
const (
	// Messages that wait for their time are in no queue yet.
	inspect = `
SELECT
	(SELECT count(*) FROM {schema}.messages m
		WHERE m.queue = q.id AND m.due_at IS NULL AND (m.expires_at IS NULL OR m.expires_at > clock_timestamp())),
	(SELECT count(*) FROM {schema}.consumers c WHERE c.queue = q.name AND c.alive_until > clock_timestamp())
FROM {schema}.queues q WHERE q.name = $1`

	newest = `
SELECT coalesce((SELECT max("offset") FROM {schema}.messages m WHERE m.queue = q.id AND m.holder IS NULL), 0)
FROM {schema}.queues q WHERE q.name = $1`

	// Holds the next messages of a queue and returns them.
	browse = `
WITH next AS MATERIALIZED (
	SELECT "offset" FROM {schema}.messages
	WHERE queue = (SELECT id FROM {schema}.queues WHERE name = $1)
		AND holder IS NULL AND "offset" > $2 AND "offset" <= $3 AND (expires_at IS NULL OR expires_at > now())
	ORDER BY "offset" LIMIT $4 FOR UPDATE SKIP LOCKED
), held AS (
	UPDATE {schema}.messages m SET holder = $5 FROM next WHERE m."offset" = next."offset"
	RETURNING m."offset", m.uuid, m.payload, m.metadata
)
SELECT * FROM held ORDER BY "offset"`
)
