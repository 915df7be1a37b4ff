package dialect

import "strings"

var postgresRelay = RelaySQL{
	Fetch: `
SELECT id, topic, key, payload, metadata::text
` + postgresForward,
	FetchShard: `
SELECT id, topic, key,
       CASE WHEN ` + postgresShard + ` = $7::int THEN payload END,
       CASE WHEN ` + postgresShard + ` = $7::int THEN metadata::text END
` + strings.ReplaceAll(postgresForward, "octet_length(payload)", "CASE WHEN "+postgresShard+" = $7::int THEN octet_length(payload) ELSE 0 END"),

	Highest: `SELECT COALESCE(max(id), 0) FROM outbox`,

	FetchIDs: `
SELECT id, topic, key, payload, metadata::text
FROM (
    SELECT *, sum(octet_length(payload)) OVER (ORDER BY id) - octet_length(payload) AS before
    FROM outbox
    WHERE id = ANY ($1::bigint[])
) f
WHERE before < $2
ORDER BY id`,

	Horizon: `SELECT pg_snapshot_xmin(s)::text, pg_snapshot_xmax(s)::text FROM pg_current_snapshot() s`,

	// Shorter than a lease usually lasts, so that whoever takes over finds no locks.
	Bound: `SET LOCAL idle_in_transaction_session_timeout = '5s'`,

	// A deletion that a crash undoes only repeats messages, so its commit need
	// not wait for the disk.
	Delete: `
DELETE FROM outbox
WHERE id = ANY ($1::bigint[]) AND (SELECT set_config('synchronous_commit', 'off', true)) = 'off'`,

	DeleteRun: `
DELETE FROM outbox
WHERE id BETWEEN $1 AND $2 AND (SELECT set_config('synchronous_commit', 'off', true)) = 'off'`,

	Bury: `
WITH gone AS (DELETE FROM outbox WHERE id = $1 RETURNING *)
INSERT INTO outbox_dead (id, topic, key, payload, metadata, created_at, error, attempts)
SELECT id, topic, key, payload, metadata, created_at, $2, $3 FROM gone
ON CONFLICT (id) DO UPDATE -- a dead letter that was put back, or an id given out again
SET topic = EXCLUDED.topic, key = EXCLUDED.key, payload = EXCLUDED.payload, metadata = EXCLUDED.metadata,
    created_at = EXCLUDED.created_at, error = EXCLUDED.error, attempts = EXCLUDED.attempts, died_at = clock_timestamp()`,

	Fail: `
INSERT INTO outbox_failures (outbox_id, attempts, last_error, retry_at)
SELECT id, $2::int, $3::text, clock_timestamp() + $4::bigint * interval '1 millisecond'
FROM outbox WHERE id = $1 -- one that was given up or purged on its way fails no more
ON CONFLICT (outbox_id) DO UPDATE
SET attempts = EXCLUDED.attempts, last_error = EXCLUDED.last_error, retry_at = EXCLUDED.retry_at`,

	Mend: `DELETE FROM outbox_failures WHERE outbox_id = ANY ($1::bigint[])`,

	Failing: `
SELECT o.id, o.topic, o.key, o.metadata, f.attempts,
       GREATEST(0, ceil(extract(epoch FROM f.retry_at - clock_timestamp()) * 1000))::bigint
FROM outbox_failures f JOIN outbox o ON o.id = f.outbox_id
WHERE (hashtext(o.key) & 2147483647) % $1::int = $2::int
ORDER BY o.id`,

	SweepFailures: `DELETE FROM outbox_failures f WHERE NOT EXISTS (SELECT FROM outbox o WHERE o.id = f.outbox_id)`,

	Look: `
SELECT (SELECT count(*) FROM (SELECT FROM outbox LIMIT 1000000) o),
       (SELECT extract(epoch FROM clock_timestamp() - created_at) * 1000 FROM outbox ORDER BY id LIMIT 1)::bigint`,

	Counts: `
SELECT (SELECT count(*) FROM outbox_failures f JOIN outbox o ON o.id = f.outbox_id),
       (SELECT (extract(epoch FROM clock_timestamp() - o.created_at) * 1000)::bigint
        FROM outbox_failures f JOIN outbox o ON o.id = f.outbox_id ORDER BY o.id LIMIT 1),
       (SELECT count(*) FROM outbox_dead), wanted,
       (SELECT count(*) FROM outbox_relays WHERE expires_at > clock_timestamp()),
       (extract(epoch FROM clock_timestamp()) * 1000)::bigint
FROM outbox_shards`,

	Leases: `
SELECT shard, holder, term, position, shards, (extract(epoch FROM expires_at - clock_timestamp()) * 1000)::bigint,
       (extract(epoch FROM clock_timestamp() - seen_at) * 1000)::bigint
FROM outbox_leases ORDER BY shard`,

	Failures: `
SELECT o.id, o.topic, o.key, o.metadata::text, f.attempts, f.last_error,
       (extract(epoch FROM o.created_at) * 1000)::bigint, (extract(epoch FROM f.retry_at) * 1000)::bigint
FROM outbox_failures f JOIN outbox o ON o.id = f.outbox_id
WHERE o.id > $1
ORDER BY o.id LIMIT $2`,

	Hasten: `UPDATE outbox_failures SET attempts = 0, retry_at = clock_timestamp() WHERE outbox_id = ANY ($1::bigint[])`,

	GiveUp: `
WITH gone AS (
    DELETE FROM outbox o USING outbox_failures f
    WHERE o.id = ANY ($1::bigint[]) AND f.outbox_id = o.id
    RETURNING o.*, f.last_error, f.attempts
)
INSERT INTO outbox_dead (id, topic, key, payload, metadata, created_at, error, attempts)
SELECT id, topic, key, payload, metadata, created_at, last_error, attempts FROM gone
ON CONFLICT (id) DO UPDATE -- as in Bury
SET topic = EXCLUDED.topic, key = EXCLUDED.key, payload = EXCLUDED.payload, metadata = EXCLUDED.metadata,
    created_at = EXCLUDED.created_at, error = EXCLUDED.error, attempts = EXCLUDED.attempts, died_at = clock_timestamp()`,
	GiveUpDeletes: true,

	DeleteFailing: `
DELETE FROM outbox
WHERE id = ANY ($1::bigint[]) AND id IN (SELECT outbox_id FROM outbox_failures)`,

	Letters: `
SELECT id, topic, key, payload, metadata::text, attempts, error,
       (extract(epoch FROM created_at) * 1000)::bigint, (extract(epoch FROM died_at) * 1000)::bigint
FROM outbox_dead
WHERE id > $1
ORDER BY id LIMIT $2`,

	Revive: `
WITH gone AS (DELETE FROM outbox_dead WHERE id = ANY ($1::bigint[]) RETURNING *)
INSERT INTO outbox (topic, key, payload, metadata)
SELECT topic, key, payload, metadata FROM gone ORDER BY id`,
	RevivePurges: true,

	Rewrite: `UPDATE outbox_dead SET payload = $2 WHERE id = $1`,

	Purge: `DELETE FROM outbox_dead WHERE id = ANY ($1::bigint[])`,

	Want: `UPDATE outbox_shards SET wanted = $1 WHERE wanted <> $1`,

	Survey: `SELECT wanted, (SELECT count(*) FROM outbox_relays WHERE expires_at > clock_timestamp()) FROM outbox_shards`,

	Attend: `
INSERT INTO outbox_relays (holder, expires_at) VALUES ($1, clock_timestamp() + $2 * interval '1 millisecond')
ON CONFLICT (holder) DO UPDATE SET expires_at = EXCLUDED.expires_at`,

	Leave: `DELETE FROM outbox_relays WHERE holder = $1 OR expires_at <= clock_timestamp()`,

	Agree: `UPDATE outbox_shards SET wanted = wanted`,

	Agreed: `
SELECT wanted, EXISTS (SELECT FROM outbox_leases WHERE shards <> $1 AND expires_at > clock_timestamp())
FROM outbox_shards`,

	Vacant: `SELECT NOT EXISTS (SELECT FROM outbox_leases WHERE shard = $1 AND expires_at > clock_timestamp())`,

	Acquire: `
INSERT INTO outbox_leases AS l (shard, holder, term, expires_at, shards)
VALUES ($1, $2, 1, clock_timestamp() + $3 * interval '1 millisecond', $4)
ON CONFLICT (shard) DO UPDATE
SET holder = EXCLUDED.holder, shards = EXCLUDED.shards, term = l.term + 1, expires_at = EXCLUDED.expires_at, seen_at = clock_timestamp(), asleep = false
WHERE l.expires_at <= clock_timestamp()
RETURNING term`,

	// Not one that was released since: a call that was given up may come late.
	Renew: `
UPDATE outbox_leases
SET expires_at = clock_timestamp() + $4 * interval '1 millisecond', position = $5, seen_at = clock_timestamp()
WHERE shard = $1 AND holder = $2 AND term = $3 AND expires_at > clock_timestamp()`,

	Release: `
UPDATE outbox_leases SET expires_at = clock_timestamp(), asleep = false
WHERE shard = $1 AND holder = $2 AND term = $3`,

	Asleep: `UPDATE outbox_leases SET asleep = $4 WHERE shard = $1 AND holder = $2 AND term = $3`,
}

// One statement and so one snapshot for late rows and new ones: a late row
// that is visible comes before a newer one of its key. LATERAL with ORDER BY
// and LIMIT makes an index scan of every range, whatever the statistics of a
// table that is now empty and now full. The running sum bounds what one fetch
// may bring into memory; the first row always comes, however large.
const postgresForward = `FROM (
    SELECT *, sum(octet_length(payload)) OVER (ORDER BY id) - octet_length(payload) AS before
    FROM (
        SELECT late.*
        FROM unnest($4::bigint[], $5::bigint[]) AS g (low, high)
        CROSS JOIN LATERAL (SELECT * FROM outbox WHERE id BETWEEN g.low AND g.high ORDER BY id LIMIT $2) late
        UNION ALL
        (SELECT * FROM outbox WHERE id > $1 ORDER BY id LIMIT $2)
    ) found
    ORDER BY id
    LIMIT $2
) f
WHERE before < $3
ORDER BY id`

// postgresShard is the shard of a key. All relays ask the same server for it, so
// it does not matter that another version may count otherwise.
const postgresShard = `(hashtext(key) & 2147483647) % $6::int`
