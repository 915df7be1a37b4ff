-- +goose Up

-- The version of each row that a DELETE removed, so that a late message does
-- not bring it back. replica is the replica table's name.
CREATE TABLE IF NOT EXISTS replica_tombstones (
    replica    varbinary(255)  NOT NULL,
    `key`      varbinary(2800) NOT NULL,
    revision   bigint          NOT NULL,
    updated    datetime(6)     NOT NULL,
    deleted_at datetime(6)     NOT NULL DEFAULT (utc_timestamp(6)),
    PRIMARY KEY (replica, `key`)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- What handlers have seen: the version of the newest event of each key, and
-- deleted_at where it was a DELETE. Each queue has its own.
CREATE TABLE IF NOT EXISTS replica_inbox (
    queue      varbinary(120)  NOT NULL,
    entity     varbinary(120)  NOT NULL,
    `key`      varbinary(2800) NOT NULL,
    revision   bigint          NOT NULL,
    updated    datetime(6)     NOT NULL,
    deleted_at datetime(6),
    PRIMARY KEY (queue, entity, `key`)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- A row for each replica table, for its writers to lock: a DELETE alone, others
-- together.
CREATE TABLE IF NOT EXISTS replica_locks (
    replica varbinary(255) NOT NULL PRIMARY KEY
) ENGINE = InnoDB;

-- +goose Down
DROP TABLE IF EXISTS replica_locks;
DROP TABLE IF EXISTS replica_inbox;
DROP TABLE IF EXISTS replica_tombstones;
