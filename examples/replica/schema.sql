-- The tables of the replica: a copy of the accounts, and what a handler keeps.
CREATE TABLE IF NOT EXISTS account_ref (
    id            bigint      PRIMARY KEY,
    title         text        NOT NULL,
    cqrs_revision bigint      NOT NULL DEFAULT 0,
    cqrs_updated  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS turnover (
    account bigint PRIMARY KEY,
    total   bigint NOT NULL
);
