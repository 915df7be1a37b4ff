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

// appendText appends one element of a list parameter.
func (n Name) appendText(b []byte, s string) []byte {
	if n != Postgres {
		return event.AppendString(b, s)
	}
	return append(append(append(b, '"'), arrayEscaper.Replace(s)...), '"')
}

// arrayEscaper escapes what a quoted element of a PostgreSQL array may not hold bare.
var arrayEscaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`)
