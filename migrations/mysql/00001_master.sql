-- +goose Up

-- Each statement commits by itself on MySQL, so a migration that broke off can
-- be run again. Times are UTC whatever a session's time zone is. Names and keys
-- are compared byte by byte.

-- Only ever inserted into and deleted from, so that it stays small and needs no
-- second index. A public contract: any program may insert topic, key, payload
-- and metadata in the transaction of its own change.
CREATE TABLE IF NOT EXISTS outbox (
    id         bigint       NOT NULL AUTO_INCREMENT PRIMARY KEY,
    topic      varchar(512) NOT NULL,
    `key`      varchar(3000) NOT NULL DEFAULT '',
    payload    longblob     NOT NULL,
    metadata   json         NOT NULL DEFAULT ('{}'),
    created_at datetime(6)  NOT NULL DEFAULT (utc_timestamp(6))
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- One row for each outbox message that is failing now.
CREATE TABLE IF NOT EXISTS outbox_failures (
    outbox_id  bigint      NOT NULL PRIMARY KEY,
    attempts   integer     NOT NULL,
    last_error text        NOT NULL,
    retry_at   datetime(6) NOT NULL
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- Messages that the broker will never take, or not within the attempt limit.
CREATE TABLE IF NOT EXISTS outbox_dead (
    id         bigint       NOT NULL PRIMARY KEY,
    topic      varchar(512) NOT NULL,
    `key`      varchar(3000) NOT NULL,
    payload    longblob     NOT NULL,
    metadata   json         NOT NULL,
    created_at datetime(6)  NOT NULL,
    error      text         NOT NULL,
    attempts   integer      NOT NULL,
    died_at    datetime(6)  NOT NULL DEFAULT (utc_timestamp(6))
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- The last revision of each deleted key, so that revisions never restart. Binary,
-- for text would compare without trailing spaces; together as long as an index may be.
CREATE TABLE IF NOT EXISTS outbox_tombstones (
    entity     varbinary(255)  NOT NULL,
    `key`      varbinary(2800) NOT NULL,
    revision   bigint          NOT NULL,
    deleted_at datetime(6)     NOT NULL,
    PRIMARY KEY (entity, `key`)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- Into how many shards the relays split the outbox, by key.
CREATE TABLE IF NOT EXISTS outbox_shards (
    only_row integer NOT NULL PRIMARY KEY DEFAULT 1 CHECK (only_row = 1),
    wanted   integer NOT NULL CHECK (wanted > 0)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
INSERT IGNORE INTO outbox_shards (wanted) VALUES (1);

-- The relays that share the shards.
CREATE TABLE IF NOT EXISTS outbox_relays (
    holder     varchar(512) NOT NULL PRIMARY KEY,
    expires_at datetime(6)  NOT NULL
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- Who relays which of how many shards. Nothing can be notified on MySQL: asleep is not used.
CREATE TABLE IF NOT EXISTS outbox_leases (
    shard      integer      NOT NULL PRIMARY KEY,
    holder     varchar(512) NOT NULL,
    term       bigint       NOT NULL,
    expires_at datetime(6)  NOT NULL,
    position   bigint       NOT NULL DEFAULT 0,
    seen_at    datetime(6)  NOT NULL DEFAULT (utc_timestamp(6)),
    asleep     boolean      NOT NULL DEFAULT false,
    shards     integer      NOT NULL DEFAULT 1
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- +goose Down
DROP TABLE IF EXISTS outbox_leases;
DROP TABLE IF EXISTS outbox_relays;
DROP TABLE IF EXISTS outbox_shards;
DROP TABLE IF EXISTS outbox_tombstones;
DROP TABLE IF EXISTS outbox_dead;
DROP TABLE IF EXISTS outbox_failures;
DROP TABLE IF EXISTS outbox;
