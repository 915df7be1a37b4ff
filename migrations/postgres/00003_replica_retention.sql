-- +goose Up

-- For finding what is old enough to be forgotten.
CREATE INDEX replica_tombstones_age ON replica_tombstones (replica, deleted_at);
CREATE INDEX replica_inbox_age ON replica_inbox (queue, deleted_at) WHERE deleted_at IS NOT NULL;

-- +goose Down
DROP INDEX replica_inbox_age;
DROP INDEX replica_tombstones_age;
