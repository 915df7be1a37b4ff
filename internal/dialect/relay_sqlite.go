package dialect

// SQLite has one writer at a time and gives ids out in the order of commits, so
// there are no gaps to look up.
var sqliteRelay = RelaySQL{
	Fetch: `
SELECT id, topic, key, payload, metadata
FROM (
    SELECT *, sum(length(payload)) OVER (ORDER BY id) - length(payload) AS before
    FROM (SELECT * FROM outbox WHERE id > ?1 ORDER BY id LIMIT ?2)
)
WHERE before < ?3
ORDER BY id`,

	FetchShard: `
SELECT id, topic, key, CASE WHEN shard = ?5 THEN payload END, CASE WHEN shard = ?5 THEN metadata END
FROM (
    SELECT *, sum(length(payload)) OVER (ORDER BY id) - length(payload) AS before
    FROM (SELECT *, ` + sqliteShard + ` % ?4 AS shard FROM outbox WHERE id > ?1 ORDER BY id LIMIT ?2)
)
WHERE before < ?3
ORDER BY id`,

	Highest: `SELECT COALESCE(max(id), 0) FROM outbox`,

	FetchIDs: `
SELECT id, topic, key, payload, metadata
FROM (
    SELECT *, sum(length(payload)) OVER (ORDER BY id) - length(payload) AS before
    FROM outbox
    WHERE id IN (SELECT value FROM json_each(?1))
)
WHERE before < ?2
ORDER BY id`,

	Delete: `DELETE FROM outbox WHERE id IN (SELECT value FROM json_each(?1))`,

	Bury: `
INSERT OR REPLACE INTO outbox_dead (id, topic, key, payload, metadata, created_at, error, attempts)
SELECT id, topic, key, payload, metadata, created_at, ?2, ?3 FROM outbox WHERE id = ?1`,

	Fail: `
INSERT INTO outbox_failures (outbox_id, attempts, last_error, retry_at)
SELECT id, ?2, ?3, strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now', (?4 / 1000.0) || ' seconds')
FROM outbox WHERE id = ?1
ON CONFLICT (outbox_id) DO UPDATE
SET attempts = excluded.attempts, last_error = excluded.last_error, retry_at = excluded.retry_at`,

	Mend: `DELETE FROM outbox_failures WHERE outbox_id IN (SELECT value FROM json_each(?1))`,

	Failing: `
SELECT o.id, o.topic, o.key, o.metadata, f.attempts,
       max(0, CAST((julianday(substr(f.retry_at, 1, 23)) - julianday('now')) * 86400000 AS INTEGER))
FROM outbox_failures f JOIN outbox o ON o.id = f.outbox_id
WHERE ` + sqliteShard + ` % ?1 = ?2
ORDER BY o.id`,

	SweepFailures: `DELETE FROM outbox_failures WHERE outbox_id NOT IN (SELECT id FROM outbox)`,

	Look: `
SELECT (SELECT count(*) FROM (SELECT 1 FROM outbox LIMIT 1000000)),
       (SELECT CAST((julianday('now') - julianday(substr(created_at, 1, 23))) * 86400000 AS INTEGER) FROM outbox ORDER BY id LIMIT 1)`,

	Counts: `
SELECT (SELECT count(*) FROM outbox_failures f JOIN outbox o ON o.id = f.outbox_id),
       (SELECT CAST((julianday('now') - julianday(substr(o.created_at, 1, 23))) * 86400000 AS INTEGER)
        FROM outbox_failures f JOIN outbox o ON o.id = f.outbox_id ORDER BY o.id LIMIT 1),
       (SELECT count(*) FROM outbox_dead), wanted,
       (SELECT count(*) FROM outbox_relays WHERE expires_at > strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')),
       CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)
FROM outbox_shards`,

	Leases: `
SELECT shard, holder, term, position, shards,
       CAST(round((julianday(substr(expires_at, 1, 23)) - julianday('now')) * 86400000) AS INTEGER),
       CAST(round((julianday('now') - julianday(substr(seen_at, 1, 23))) * 86400000) AS INTEGER)
FROM outbox_leases ORDER BY shard`,

	Failures: `
SELECT o.id, o.topic, o.key, o.metadata, f.attempts, f.last_error,
       CAST(round((julianday(substr(o.created_at, 1, 23)) - 2440587.5) * 86400000) AS INTEGER),
       CAST(round((julianday(substr(f.retry_at, 1, 23)) - 2440587.5) * 86400000) AS INTEGER)
FROM outbox_failures f JOIN outbox o ON o.id = f.outbox_id
WHERE o.id > ?1
ORDER BY o.id LIMIT ?2`,

	Hasten: `
UPDATE outbox_failures SET attempts = 0, retry_at = strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')
WHERE outbox_id IN (SELECT value FROM json_each(?1))`,

	GiveUp: `
INSERT OR REPLACE INTO outbox_dead (id, topic, key, payload, metadata, created_at, error, attempts)
SELECT o.id, o.topic, o.key, o.payload, o.metadata, o.created_at, f.last_error, f.attempts
FROM outbox_failures f JOIN outbox o ON o.id = f.outbox_id
WHERE o.id IN (SELECT value FROM json_each(?1))`,

	DeleteFailing: `
DELETE FROM outbox
WHERE id IN (SELECT value FROM json_each(?1)) AND id IN (SELECT outbox_id FROM outbox_failures)`,

	Letters: `
SELECT id, topic, key, payload, metadata, attempts, error,
       CAST(round((julianday(substr(created_at, 1, 23)) - 2440587.5) * 86400000) AS INTEGER),
       CAST(round((julianday(substr(died_at, 1, 23)) - 2440587.5) * 86400000) AS INTEGER)
FROM outbox_dead
WHERE id > ?1
ORDER BY id LIMIT ?2`,

	Revive: `
INSERT INTO outbox (topic, key, payload, metadata)
SELECT topic, key, payload, metadata FROM outbox_dead WHERE id IN (SELECT value FROM json_each(?1)) ORDER BY id`,

	Rewrite: `UPDATE outbox_dead SET payload = ?2 WHERE id = ?1`,

	Purge: `DELETE FROM outbox_dead WHERE id IN (SELECT value FROM json_each(?1))`,

	Want: `UPDATE outbox_shards SET wanted = ?1 WHERE wanted <> ?1`,

	Survey: `
SELECT wanted, (SELECT count(*) FROM outbox_relays WHERE expires_at > strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'))
FROM outbox_shards`,

	Attend: `
INSERT INTO outbox_relays (holder, expires_at) VALUES (?1, strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now', (?2 / 1000.0) || ' seconds'))
ON CONFLICT (holder) DO UPDATE SET expires_at = excluded.expires_at`,

	Leave: `DELETE FROM outbox_relays WHERE holder = ?1 OR expires_at <= strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')`,

	Agree: `UPDATE outbox_shards SET wanted = wanted`,

	Agreed: `
SELECT wanted, EXISTS (
    SELECT 1 FROM outbox_leases WHERE shards <> ?1 AND expires_at > strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'))
FROM outbox_shards`,

	Vacant: `
SELECT NOT EXISTS (
    SELECT 1 FROM outbox_leases
    WHERE shard = ?1 AND expires_at > strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'))`,

	Acquire: `
INSERT INTO outbox_leases AS l (shard, holder, term, expires_at, shards)
VALUES (?1, ?2, 1, strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now', (?3 / 1000.0) || ' seconds'), ?4)
ON CONFLICT (shard) DO UPDATE
SET holder = excluded.holder, shards = excluded.shards, term = l.term + 1, expires_at = excluded.expires_at,
    seen_at = strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'), asleep = 0
WHERE l.expires_at <= strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')
RETURNING term`,

	// Not one that was released since: a call that was given up may come late.
	Renew: `
UPDATE outbox_leases
SET expires_at = strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now', (?4 / 1000.0) || ' seconds'),
    position = ?5, seen_at = strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')
WHERE shard = ?1 AND holder = ?2 AND term = ?3 AND expires_at > strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')`,

	Release: `
UPDATE outbox_leases
SET expires_at = strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'), asleep = 0
WHERE shard = ?1 AND holder = ?2 AND term = ?3`,

	Asleep: `UPDATE outbox_leases SET asleep = ?4 WHERE shard = ?1 AND holder = ?2 AND term = ?3`,
}

// sqliteShard stands in for a hash, which SQLite has not: the last characters of
// the key, and its length.
const sqliteShard = `(length(key) + COALESCE(unicode(substr(key, -1)), 0) + 31 * COALESCE(unicode(substr(key, -2, 1)), 0))`
