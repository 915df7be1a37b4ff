-- The tables of the master. `relay migrate table accounts payments` prints the two cqrs_ columns
-- for tables that exist already.
CREATE TABLE IF NOT EXISTS accounts (
    id            bigint      PRIMARY KEY,
    name          text        NOT NULL,
    balance       bigint      NOT NULL,
    cqrs_revision bigint      NOT NULL DEFAULT 0,
    cqrs_updated  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS payments (
    id            bigserial   PRIMARY KEY,
    account       bigint      NOT NULL REFERENCES accounts,
    amount        bigint      NOT NULL,
    cqrs_revision bigint      NOT NULL DEFAULT 0,
    cqrs_updated  timestamptz NOT NULL DEFAULT now()
);
