-- +goose Up

-- The version of each row that a DELETE removed, so that a late message does
-- not bring it back. replica is the replica table's name.
CREATE TABLE replica_tombstones (
    replica    text        NOT NULL,
    key        text        NOT NULL,
    revision   bigint      NOT NULL,
    updated    timestamptz NOT NULL,
    deleted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (replica, key)
);

-- What handlers have seen: the version of the newest event of each key, and
-- deleted_at where it was a DELETE. Each queue has its own.
CREATE TABLE replica_inbox (
    queue      text        NOT NULL,
    entity     text        NOT NULL,
    key        text        NOT NULL,
    revision   bigint      NOT NULL,
    updated    timestamptz NOT NULL,
    deleted_at timestamptz,
    PRIMARY KEY (queue, entity, key)
);

-- +goose Down
DROP TABLE replica_inbox;
DROP TABLE replica_tombstones;
