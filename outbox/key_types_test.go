package outbox_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/lockstep-go/lockstep/outbox"
)

// TestKeyTypes: a column whose values are not found again by the form in which they are
// sent is no key. A comparison would take living rows for deleted ones.
func TestKeyTypes(t *testing.T) {
	t.Parallel()
	types := map[outbox.Dialect]struct{ good, bad []string }{
		outbox.Postgres: {
			[]string{"integer", "bigint", "text", "varchar(20)", "uuid", "date", "timestamptz", "boolean", "numeric(12,2)"},
			[]string{"bytea", "integer[]", "jsonb"},
		},
		outbox.MySQL: {
			[]string{"int", "bigint unsigned", "tinyint", "varchar(20) COLLATE utf8mb4_bin", "uuid"},
			[]string{"boolean", "tinyint(1) unsigned", "date", "datetime(6)", "decimal(12,2)", "varbinary(20)", "varchar(20) COLLATE utf8mb4_general_ci"},
		},
		outbox.SQLite: {
			[]string{"INTEGER", "BIGINT", "TEXT", "VARCHAR(20)", "UUID", "NUMERIC(12,2)", "REAL"},
			[]string{"DATE", "DATETIME", "TIMESTAMP", "timestamp with time zone", "TIME", "BOOLEAN", "bool", "BLOB"},
		},
	}
	onEach(t, func(t *testing.T, m master) {
		check := func(kind string, n int, want bool) {
			for _, keys := range [][]string{{"code"}, {"part", "code"}} {
				table := fmt.Sprintf("keys_%d_%d", n, len(keys))
				m.exec(t, fmt.Sprintf("CREATE TABLE %s (code %s NOT NULL, part INTEGER NOT NULL, PRIMARY KEY (%s))", table, kind, strings.Join(keys, ", ")))
				m.addVersions(t, table)
				ob, err := outbox.New(outbox.Config{Dialect: m.dialect, Entities: []outbox.Entity{{ID: table, Table: table, Keys: keys}}})
				if err != nil {
					t.Fatal(err)
				}
				switch err = ob.Check(t.Context(), m.DB); {
				case want && err != nil:
					t.Errorf("%s, key %s: %v", kind, keys, err)
				case !want && (err == nil || !strings.Contains(err.Error(), "column code of the key ")):
					t.Errorf("%s, key %s: %v, want an error about the column", kind, keys, err)
				}
			}
		}
		for i, kind := range types[m.dialect].good {
			check(kind, i, true)
		}
		for i, kind := range types[m.dialect].bad {
			check(kind, 100+i, false)
		}
	})
}
