CREATE TABLE accounts (
    id            bigint      PRIMARY KEY,
    name          text        NOT NULL,
    cqrs_revision bigint      NOT NULL DEFAULT 0,
    cqrs_updated  timestamptz NOT NULL DEFAULT now()
);
