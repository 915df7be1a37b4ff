-- +goose Up

-- The version of each row that a DELETE removed, so that a late message does
-- not bring it back. replica is the replica table's name.
CREATE TABLE replica_tombstones (
    replica    TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    revision   INTEGER NOT NULL,
    updated    TEXT    NOT NULL,
    deleted_at TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')),
    PRIMARY KEY (replica, key)
) WITHOUT ROWID;

-- What handlers have seen: the version of the newest event of each key, and
-- deleted_at where it was a DELETE. Each queue has its own.
CREATE TABLE replica_inbox (
    queue      TEXT    NOT NULL,
    entity     TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    revision   INTEGER NOT NULL,
    updated    TEXT    NOT NULL,
    deleted_at TEXT,
    PRIMARY KEY (queue, entity, key)
) WITHOUT ROWID;

-- +goose Down
DROP TABLE replica_inbox;
DROP TABLE replica_tombstones;
