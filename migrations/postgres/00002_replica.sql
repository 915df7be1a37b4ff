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

-- +goose Down
DROP TABLE replica_tombstones;
