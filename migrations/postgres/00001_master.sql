-- +goose Up

-- Only ever inserted into and deleted from, so that it stays small and needs no
-- second index. A public contract: any program may insert topic, key, payload
-- and metadata in the transaction of its own change.
CREATE TABLE outbox (
    id         bigserial   PRIMARY KEY,
    topic      text        NOT NULL,
    key        text        NOT NULL DEFAULT '',
    payload    bytea       NOT NULL,
    metadata   jsonb       NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- One row for each outbox message that is failing now.
CREATE TABLE outbox_failures (
    outbox_id  bigint      PRIMARY KEY,
    attempts   integer     NOT NULL,
    last_error text        NOT NULL,
    retry_at   timestamptz NOT NULL
);

-- Messages that the broker will never take, or not within the attempt limit.
CREATE TABLE outbox_dead (
    id         bigint      PRIMARY KEY,
    topic      text        NOT NULL,
    key        text        NOT NULL,
    payload    bytea       NOT NULL,
    metadata   jsonb       NOT NULL,
    created_at timestamptz NOT NULL,
    error      text        NOT NULL,
    attempts   integer     NOT NULL,
    died_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The last revision of each deleted key, so that revisions never restart.
CREATE TABLE outbox_tombstones (
    entity     text        NOT NULL,
    key        text        NOT NULL,
    revision   bigint      NOT NULL,
    deleted_at timestamptz NOT NULL,
    PRIMARY KEY (entity, key)
);

-- Into how many shards the relays split the outbox, by key.
CREATE TABLE outbox_shards (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    wanted   integer NOT NULL CHECK (wanted > 0)
);
INSERT INTO outbox_shards (wanted) VALUES (1);

-- The relays that share the shards.
CREATE TABLE outbox_relays (
    holder     text        PRIMARY KEY,
    expires_at timestamptz NOT NULL
);

-- Who relays which of how many shards. asleep asks writers for a NOTIFY.
CREATE TABLE outbox_leases (
    shard      integer     PRIMARY KEY,
    holder     text        NOT NULL,
    term       bigint      NOT NULL,
    expires_at timestamptz NOT NULL,
    position   bigint      NOT NULL DEFAULT 0,
    seen_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    asleep     boolean     NOT NULL DEFAULT false,
    shards     integer     NOT NULL DEFAULT 1
);

-- A hint for a sleeping relay. NOTIFY takes a lock of the whole server at
-- commit, so a relay that is awake is not notified.
-- The schema's name stands in the function, so that writers with another
-- search_path find the table: SET search_path would cost each of them more time.
-- +goose StatementBegin
DO $do$
BEGIN
    EXECUTE format($function$
CREATE FUNCTION outbox_wake() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    PERFORM pg_catalog.pg_notify('lockstep_outbox', TG_TABLE_SCHEMA) FROM %I.outbox_leases WHERE asleep;
    RETURN NULL;
END $body$
$function$, current_schema());
END $do$;
-- +goose StatementEnd
CREATE TRIGGER outbox_wake AFTER INSERT ON outbox FOR EACH STATEMENT EXECUTE FUNCTION outbox_wake();

-- +goose Down
DROP TABLE outbox_leases;
DROP TABLE outbox_relays;
DROP TABLE outbox_shards;
DROP TABLE outbox_tombstones;
DROP TABLE outbox_dead;
DROP TABLE outbox_failures;
DROP TABLE outbox;
DROP FUNCTION outbox_wake();
