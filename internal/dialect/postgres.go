package dialect

import (
	"strings"

	"github.com/lockstep-go/lockstep/event"
)

// VersionColumns returns the statements that add cqrs_revision and cqrs_updated
// to a table. Existing rows get revision 0 and the time of the change.
func (n Name) VersionColumns(table string) string {
	t := n.Quote(table)
	switch n {
	case MySQL:
		return "ALTER TABLE " + t + "\n" +
			"    ADD COLUMN cqrs_revision bigint NOT NULL DEFAULT 0,\n" +
			"    ADD COLUMN cqrs_updated datetime(6) NOT NULL DEFAULT (utc_timestamp(6));\n"
	case SQLite: // one column a statement, and only constant defaults on existing tables
		return "ALTER TABLE " + t + " ADD COLUMN cqrs_revision INTEGER NOT NULL DEFAULT 0;\n" +
			"ALTER TABLE " + t + " ADD COLUMN cqrs_updated TEXT NOT NULL DEFAULT '1970-01-01 00:00:00.000000+00:00';\n"
	}
	return "ALTER TABLE " + t + "\n" +
		"    ADD COLUMN cqrs_revision bigint NOT NULL DEFAULT 0,\n" +
		"    ADD COLUMN cqrs_updated timestamptz NOT NULL DEFAULT now();\n"
}

// VersionDefaults returns the statements that give defaults to version columns
// which a table has already.
func (n Name) VersionDefaults(table string) string {
	t := n.Quote(table)
	switch n {
	case MySQL:
		return "give it them with\nALTER TABLE " + t + "\n" +
			"    ALTER COLUMN cqrs_revision SET DEFAULT 0,\n" +
			"    ALTER COLUMN cqrs_updated SET DEFAULT (utc_timestamp(6));\n"
	case SQLite:
		return "SQLite adds no default to a column, so make the table anew " +
			"(https://www.sqlite.org/lang_altertable.html#otheralter) with\n" +
			"    cqrs_revision INTEGER NOT NULL DEFAULT 0,\n" +
			"    cqrs_updated TEXT NOT NULL DEFAULT '1970-01-01 00:00:00.000000+00:00'\n"
	}
	return "give it them with\nALTER TABLE " + t + "\n" +
		"    ALTER COLUMN cqrs_revision SET DEFAULT 0,\n" +
		"    ALTER COLUMN cqrs_updated SET DEFAULT now();\n"
}

// PostgresRights lists, as GRANT statements, what the role lacks to record events in
// the outbox's own tables. outbox_leases is read by a trigger. What does not exist is
// left out: that is another fault.
const PostgresRights = `
SELECT format('GRANT %s ON %s TO %I;', actions, object, current_user)
FROM (VALUES
    ('SELECT, INSERT', 'outbox', has_table_privilege(to_regclass('outbox'), 'SELECT') AND has_table_privilege(to_regclass('outbox'), 'INSERT')),
    ('USAGE', 'SEQUENCE ' || pg_get_serial_sequence('outbox', 'id'), has_sequence_privilege(pg_get_serial_sequence('outbox', 'id'), 'USAGE, UPDATE')),
    ('SELECT, INSERT, UPDATE', 'outbox_tombstones', has_table_privilege(to_regclass('outbox_tombstones'), 'SELECT')
        AND has_table_privilege(to_regclass('outbox_tombstones'), 'INSERT') AND has_table_privilege(to_regclass('outbox_tombstones'), 'UPDATE')),
    ('SELECT', 'outbox_leases', has_table_privilege(to_regclass('outbox_leases'), 'SELECT'))
) AS rights (actions, object, held)
WHERE NOT held`

// PostgresEntityRights is the same for an entity's table. A right to some of its
// columns may be enough to read it.
const PostgresEntityRights = `
SELECT format('GRANT %s ON %s TO %I;', actions, to_regclass($1), current_user)
FROM (VALUES
    ('SELECT', has_any_column_privilege(to_regclass($1), 'SELECT')),
    ('UPDATE (cqrs_revision, cqrs_updated)',
        has_column_privilege(to_regclass($1), 'cqrs_revision', 'UPDATE') AND has_column_privilege(to_regclass($1), 'cqrs_updated', 'UPDATE'))
) AS rights (actions, held)
WHERE NOT held`

// appendText appends one element of a list parameter.
func (n Name) appendText(b []byte, s string) []byte {
	if n != Postgres {
		return event.AppendString(b, s)
	}
	return append(append(append(b, '"'), arrayEscaper.Replace(s)...), '"')
}

// arrayEscaper escapes what a quoted element of a PostgreSQL array may not hold bare.
var arrayEscaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`)
