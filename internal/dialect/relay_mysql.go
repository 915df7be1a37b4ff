package dialect

import (
	"strconv"
	"strings"
)

// MySQL's statements of the read side. Payloads are looked up once it is known
// which are wanted: a sort or a window over them would go to disk. Texts are read
// as bytes, so that the session's character set does not change them. A list of
// ids leads (STRAIGHT_JOIN) to single rows of the primary key: a scan would wait
// for other transactions' rows where it locks.
var mysqlRelay = RelaySQL{
	Highest: `SELECT COALESCE(MAX(id), 0) FROM outbox`,

	FetchIDs: `
SELECT` + mysqlRow + `
FROM (
    SELECT id
    FROM (
        SELECT id, SUM(size) OVER (ORDER BY id) - size AS size_before
        FROM (
            SELECT o.id, LENGTH(o.payload) AS size
            FROM ` + mysqlIDs + ` STRAIGHT_JOIN outbox o FORCE INDEX (PRIMARY) ON o.id = j.id
            ORDER BY o.id LIMIT 1000000000
        ) f
    ) s
    WHERE size_before < ?2
) w
STRAIGHT_JOIN outbox o FORCE INDEX (PRIMARY) ON o.id = w.id
ORDER BY w.id`,

	// Transactions that have written have an id below 2^48, the others none or a
	// made-up one. Every transaction that owns a gap has written by the time this
	// is asked. When none is running the lowest is beyond all.
	//
	// InnoDB answers from a copy, and makes it anew only when nobody has asked for
	// 0.1 s: with a few relays on a server it can be of any age.
	Horizon: `
SELECT CAST(COALESCE(MIN(IF(trx_id > 0 AND trx_id < 281474976710656, trx_id, NULL)), 281474976710656) AS CHAR),
       CAST(COALESCE(MAX(IF(trx_id < 281474976710656, trx_id, NULL)), 0) + 1 AS CHAR),
       COALESCE(MAX(trx_query LIKE '%` + Mark + `%'), 0)
FROM information_schema.innodb_trx`,

	Touch: `SELECT COUNT(*) FROM outbox_shards`,

	HorizonByAge: `
SELECT CAST(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) - 600000000 AS CHAR),
       CAST(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) AS CHAR)`,

	// MariaDB alone reads what stands behind /*M!; MySQL has nothing of the kind.
	Bound: `
SET @lockstep_idle = 0 /*M!100300 , @lockstep_idle = @@SESSION.idle_transaction_timeout, SESSION idle_transaction_timeout = 5 */`,

	Unbound: `SET @lockstep_bound = 0 /*M!100300 , SESSION idle_transaction_timeout = @lockstep_idle */`,

	Delete: `DELETE o FROM ` + mysqlIDs + ` STRAIGHT_JOIN outbox o FORCE INDEX (PRIMARY) ON o.id = j.id`,

	Bury: `
REPLACE INTO outbox_dead (id, topic, ` + "`key`" + `, payload, metadata, created_at, error, attempts)
SELECT id, topic, ` + "`key`" + `, payload, metadata, created_at, ?2, ?3 FROM outbox WHERE id = ?1`,

	Fail: `
INSERT INTO outbox_failures (outbox_id, attempts, last_error, retry_at)
SELECT id, ?2, ?3, UTC_TIMESTAMP(6) + INTERVAL ?4 * 1000 MICROSECOND FROM outbox WHERE id = ?1
ON DUPLICATE KEY UPDATE attempts = VALUES(attempts), last_error = VALUES(last_error), retry_at = VALUES(retry_at)`,

	Mend: `DELETE f FROM ` + mysqlIDs + ` STRAIGHT_JOIN outbox_failures f FORCE INDEX (PRIMARY) ON f.outbox_id = j.id`,

	Failing: `
SELECT o.id, CAST(o.topic AS BINARY), CAST(o.` + "`key`" + ` AS BINARY), o.metadata, f.attempts,
       CAST(GREATEST(0, TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), f.retry_at) DIV 1000) AS SIGNED)
FROM outbox_failures f JOIN outbox o ON o.id = f.outbox_id
WHERE CRC32(o.` + "`key`" + `) MOD ?1 = ?2
ORDER BY o.id`,

	SweepFailures: `DELETE f FROM outbox_failures f LEFT JOIN outbox o ON o.id = f.outbox_id WHERE o.id IS NULL`,

	Look: `
SELECT (SELECT COUNT(*) FROM (SELECT 1 FROM outbox LIMIT 1000000) o),
       (SELECT TIMESTAMPDIFF(MICROSECOND, created_at, UTC_TIMESTAMP(6)) DIV 1000 FROM outbox ORDER BY id LIMIT 1)`,

	Counts: `
SELECT (SELECT COUNT(*) FROM outbox_failures f JOIN outbox o ON o.id = f.outbox_id),
       (SELECT TIMESTAMPDIFF(MICROSECOND, o.created_at, UTC_TIMESTAMP(6)) DIV 1000
        FROM outbox_failures f JOIN outbox o ON o.id = f.outbox_id ORDER BY o.id LIMIT 1),
       (SELECT COUNT(*) FROM outbox_dead), wanted,
       (SELECT COUNT(*) FROM outbox_relays WHERE expires_at > UTC_TIMESTAMP(6)),
       TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000
FROM outbox_shards`,

	Leases: `
SELECT shard, CAST(holder AS BINARY), term, position, shards, TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), expires_at) DIV 1000,
       TIMESTAMPDIFF(MICROSECOND, seen_at, UTC_TIMESTAMP(6)) DIV 1000
FROM outbox_leases ORDER BY shard`,

	Failures: `
SELECT o.id, CAST(o.topic AS BINARY), CAST(o.` + "`key`" + ` AS BINARY), CAST(CONVERT(o.metadata USING utf8mb4) AS BINARY), f.attempts, f.last_error,
       CAST(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', o.created_at) DIV 1000 AS SIGNED),
       CAST(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', f.retry_at) DIV 1000 AS SIGNED)
FROM outbox_failures f JOIN outbox o ON o.id = f.outbox_id
WHERE o.id > ?1
ORDER BY o.id LIMIT ?2`,

	Hasten: `
UPDATE ` + mysqlIDs + ` STRAIGHT_JOIN outbox_failures f FORCE INDEX (PRIMARY) ON f.outbox_id = j.id
SET f.attempts = 0, f.retry_at = UTC_TIMESTAMP(6)`,

	// The outbox's rows are locked first, as when the relay deletes what was confirmed.
	GiveUp: `
REPLACE INTO outbox_dead (id, topic, ` + "`key`" + `, payload, metadata, created_at, error, attempts)
SELECT o.id, o.topic, o.` + "`key`" + `, o.payload, o.metadata, o.created_at, f.last_error, f.attempts
FROM ` + mysqlIDs + ` STRAIGHT_JOIN outbox o FORCE INDEX (PRIMARY) ON o.id = j.id
STRAIGHT_JOIN outbox_failures f FORCE INDEX (PRIMARY) ON f.outbox_id = o.id
FOR UPDATE`,

	DeleteFailing: `
DELETE o
FROM ` + mysqlIDs + ` STRAIGHT_JOIN outbox o FORCE INDEX (PRIMARY) ON o.id = j.id
STRAIGHT_JOIN outbox_failures f FORCE INDEX (PRIMARY) ON f.outbox_id = o.id`,

	Letters: `
SELECT id, CAST(topic AS BINARY), CAST(` + "`key`" + ` AS BINARY), payload, CAST(CONVERT(metadata USING utf8mb4) AS BINARY), attempts, error,
       CAST(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', created_at) DIV 1000 AS SIGNED),
       CAST(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', died_at) DIV 1000 AS SIGNED)
FROM outbox_dead
WHERE id > ?1
ORDER BY id LIMIT ?2`,

	Revive: `
INSERT INTO outbox (topic, ` + "`key`" + `, payload, metadata)
SELECT d.topic, d.` + "`key`" + `, d.payload, d.metadata
FROM ` + mysqlIDs + ` STRAIGHT_JOIN outbox_dead d FORCE INDEX (PRIMARY) ON d.id = j.id
ORDER BY d.id`,

	Rewrite: `UPDATE outbox_dead SET payload = ?2 WHERE id = ?1`,

	Purge: `DELETE d FROM ` + mysqlIDs + ` STRAIGHT_JOIN outbox_dead d FORCE INDEX (PRIMARY) ON d.id = j.id`,

	Want: `UPDATE outbox_shards SET wanted = ?1`,

	Survey: `SELECT wanted, (SELECT COUNT(*) FROM outbox_relays WHERE expires_at > UTC_TIMESTAMP(6)) FROM outbox_shards`,

	Attend: `
INSERT INTO outbox_relays (holder, expires_at) VALUES (?1, UTC_TIMESTAMP(6) + INTERVAL ?2 * 1000 MICROSECOND)
ON DUPLICATE KEY UPDATE expires_at = VALUES(expires_at)`,

	Leave: `DELETE FROM outbox_relays WHERE holder = ?1 OR expires_at <= UTC_TIMESTAMP(6)`,

	Agree: `UPDATE outbox_shards SET wanted = wanted`,

	Agreed: `
SELECT wanted, EXISTS (SELECT 1 FROM outbox_leases WHERE shards <> ?1 AND expires_at > UTC_TIMESTAMP(6))
FROM outbox_shards`,

	Vacant: `SELECT NOT EXISTS (SELECT 1 FROM outbox_leases WHERE shard = ?1 AND expires_at > UTC_TIMESTAMP(6))`,

	Found: `INSERT IGNORE INTO outbox_leases (shard, holder, term, expires_at) VALUES (?1, '', 0, '1970-01-01')`,

	Acquire: `
UPDATE outbox_leases
SET holder = ?2, term = LAST_INSERT_ID(term + 1), expires_at = UTC_TIMESTAMP(6) + INTERVAL ?3 * 1000 MICROSECOND,
    seen_at = UTC_TIMESTAMP(6), asleep = false, shards = ?4
WHERE shard = ?1 AND expires_at <= UTC_TIMESTAMP(6)`,

	// The time makes sure that a row which is found is also changed, and so counted.
	// Not one that was released since: a call that was given up may come late.
	Renew: `
UPDATE outbox_leases
SET expires_at = UTC_TIMESTAMP(6) + INTERVAL ?4 * 1000 MICROSECOND, position = ?5, seen_at = UTC_TIMESTAMP(6)
WHERE shard = ?1 AND holder = ?2 AND term = ?3 AND expires_at > UTC_TIMESTAMP(6)`,

	Release: `
UPDATE outbox_leases SET expires_at = UTC_TIMESTAMP(6), asleep = false
WHERE shard = ?1 AND holder = ?2 AND term = ?3`,

	Asleep: `UPDATE outbox_leases SET asleep = ?4 WHERE shard = ?1 AND holder = ?2 AND term = ?3`,
}

const (
	mysqlRow = ` o.id, CAST(o.topic AS BINARY), CAST(o.` + "`key`" + ` AS BINARY), o.payload, CAST(CONVERT(o.metadata USING utf8mb4) AS BINARY)`
	mysqlIDs = `JSON_TABLE(?1, '$[*]' COLUMNS (id bigint PATH '$')) j`
)

// rangesAtOnce is how many ranges stand in one WHERE: the optimizer gives up on
// ranges, and reads the whole table, when there are thousands.
const rangesAtOnce = 500

// MySQLFetch returns the statement for [RelaySQL.Fetch]. The ranges stand in its
// text: only constants make an index scan of each. It is one statement and so one
// snapshot, whatever the isolation level (but for READ UNCOMMITTED).
// With more than one shard it is also [RelaySQL.FetchShard].
func MySQLFetch(position int64, rows int, bytes int64, lows, highs []int64, shard, shards int) string {
	row := mysqlRow
	if shards > 1 {
		ours := "IF(CRC32(o.`key`) MOD " + itoa(shards) + " = " + itoa(shard) + ", "
		row = strings.Replace(row, "o.payload,", ours+"o.payload, NULL),", 1)
		row = strings.Replace(row, "CAST(CONVERT(o.metadata", ours+"CAST(CONVERT(o.metadata", 1) + ", NULL)"
	}
	var b strings.Builder
	limit := " ORDER BY id LIMIT " + itoa(rows) + ")"
	b.WriteString(`
SELECT` + row + `
FROM (
    SELECT id
    FROM (
        SELECT id, SUM(size) OVER (ORDER BY id) - size AS size_before
        FROM (`)
	for i := range lows {
		if i%rangesAtOnce == 0 {
			if i > 0 {
				b.WriteString(limit + " UNION ALL")
			}
			b.WriteString("\n            " + mysqlSizes)
		} else {
			b.WriteString(" OR ")
		}
		b.WriteString("id BETWEEN " + strconv.FormatInt(lows[i], 10) + " AND " + strconv.FormatInt(highs[i], 10))
	}
	if len(lows) > 0 {
		b.WriteString(limit + " UNION ALL")
	}
	b.WriteString("\n            " + mysqlSizes + "id > " + strconv.FormatInt(position, 10) + limit)
	if len(lows) > 0 {
		b.WriteString("\n            ORDER BY id LIMIT " + itoa(rows))
	}
	b.WriteString(`
        ) f
    ) s
    WHERE size_before < ` + strconv.FormatInt(bytes, 10) + `
) w
STRAIGHT_JOIN outbox o FORCE INDEX (PRIMARY) ON o.id = w.id
ORDER BY w.id`)
	return b.String()
}

const mysqlSizes = "(SELECT id, LENGTH(payload) AS size FROM outbox FORCE INDEX (PRIMARY) WHERE "
