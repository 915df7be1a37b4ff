-- +goose Up

-- Times are text in UTC, fixed width, so that they sort: 2026-01-02 03:04:05.678000+00:00

-- Only ever inserted into and deleted from. A public contract: any program may
-- insert topic, key, payload and metadata in the transaction of its own change.
-- AUTOINCREMENT: an id is never used again.
CREATE TABLE outbox (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    topic      TEXT    NOT NULL,
    key        TEXT    NOT NULL DEFAULT '',
    payload    BLOB    NOT NULL,
    metadata   TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(metadata)),
    created_at TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'))
);

-- One row for each outbox message that is failing now.
CREATE TABLE outbox_failures (
    outbox_id  INTEGER PRIMARY KEY,
    attempts   INTEGER NOT NULL,
    last_error TEXT    NOT NULL,
    retry_at   TEXT    NOT NULL
);

-- Messages that the broker will never take, or not within the attempt limit.
CREATE TABLE outbox_dead (
    id         INTEGER PRIMARY KEY,
    topic      TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    payload    BLOB    NOT NULL,
    metadata   TEXT    NOT NULL,
    created_at TEXT    NOT NULL,
    error      TEXT    NOT NULL,
    attempts   INTEGER NOT NULL,
    died_at    TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'))
);

-- The last revision of each deleted key, so that revisions never restart.
CREATE TABLE outbox_tombstones (
    entity     TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    revision   INTEGER NOT NULL,
    deleted_at TEXT    NOT NULL,
    PRIMARY KEY (entity, key)
) WITHOUT ROWID;

-- Into how many shards the relays split the outbox, by key.
CREATE TABLE outbox_shards (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    wanted   INTEGER NOT NULL CHECK (wanted > 0)
);
INSERT INTO outbox_shards (only_row, wanted) VALUES (1, 1);

-- The relays that share the shards.
CREATE TABLE outbox_relays (
    holder     TEXT PRIMARY KEY,
    expires_at TEXT NOT NULL
) WITHOUT ROWID;

-- Who relays which of how many shards.
CREATE TABLE outbox_leases (
    shard      INTEGER PRIMARY KEY,
    holder     TEXT    NOT NULL,
    term       INTEGER NOT NULL,
    expires_at TEXT    NOT NULL,
    position   INTEGER NOT NULL DEFAULT 0,
    seen_at    TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')),
    asleep     INTEGER NOT NULL DEFAULT 0,
    shards     INTEGER NOT NULL DEFAULT 1
);

-- +goose Down
DROP TABLE outbox_leases;
DROP TABLE outbox_relays;
DROP TABLE outbox_shards;
DROP TABLE outbox_tombstones;
DROP TABLE outbox_dead;
DROP TABLE outbox_failures;
DROP TABLE outbox;
