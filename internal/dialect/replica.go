package dialect

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Guard says against which stored row a message may be written.
type Guard int

// The guards of a SAVE, of a SYNC, and of a SYNC that may lower a revision.
const (
	Newer Guard = iota
	NotOlder
	Always
)

// TombstoneTable keeps the versions of deleted rows.
const TombstoneTable = "replica_tombstones"

// Names of the columns that order the events of a row. They are the wire's.
const (
	revisionColumn = "cqrs_revision"
	updatedColumn  = "cqrs_updated"
)

// Replica is a replica table as the statements that write to it need it.
type Replica struct {
	// Table is the table's name, with or without a schema. It is also what the
	// table's tombstones are filed under.
	Table string
	// Key is the column that ON CONFLICT names: not null and unique, alone or
	// together with the rest of a composite key.
	Key Column
	// Rest are the indexes in Columns of a composite key's other columns.
	Rest []int
	// Columns are the other columns written, without the version columns.
	Columns []Column
	// Primary says that the key is the table's primary key, and Watched that a trigger
	// acts before insertions, also before those that turn out to meet a row. They
	// matter on MySQL.
	Primary, Watched bool
}

// Where reports whether the column with index i is to be written. Columns that
// are not keep what they have, or their default in a new row.
type Where func(i int) bool

// keys returns the key's columns with the names that the statements have for
// their values: MemberKey, and MemberColumn with the index.
func (r *Replica) keys() (columns []Column, members []string) {
	columns, members = []Column{r.Key}, []string{MemberKey}
	for _, i := range r.Rest {
		columns, members = append(columns, r.Columns[i]), append(members, MemberColumn+strconv.Itoa(i))
	}
	return columns, members
}

// eachKey renders the key's columns by format, whose verbs are the column's
// quoted name (%[1]s), the name of its value (%[2]s) and its place from 1
// (%[3]d), with a separator between them.
func (r *Replica) eachKey(n Name, format, separator string) string {
	columns, members := r.keys()
	parts := make([]string, len(columns))
	for i, c := range columns {
		parts[i] = fmt.Sprintf(format, n.QuoteColumn(c.Name), members[i], i+1)
	}
	return strings.Join(parts, separator)
}

// IsKey reports whether the column with an index is part of a composite key.
func (r *Replica) IsKey(i int) bool { return slices.Contains(r.Rest, i) }

// versionColumns are the definitions behind [Name.VersionColumns], one by one.
var versionColumns = map[Name]map[string]string{
	Postgres: {
		revisionColumn: "bigint NOT NULL DEFAULT 0",
		updatedColumn:  "timestamptz NOT NULL DEFAULT clock_timestamp()",
	},
	MySQL: {
		revisionColumn: "bigint NOT NULL DEFAULT 0",
		updatedColumn:  "datetime(6) NOT NULL DEFAULT (utc_timestamp(6))",
	},
	SQLite: {
		revisionColumn: "INTEGER NOT NULL DEFAULT 0",
		updatedColumn:  "TEXT NOT NULL DEFAULT '1970-01-01 00:00:00.000000+00:00'",
	},
}

// AddColumn returns the statement that adds one of the two version columns to a
// table, as [Name.VersionColumns] does for both.
func (n Name) AddColumn(table, column string) string {
	return fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s %s;", n.Quote(table), column, versionColumns[n][column])
}

// each renders the chosen columns by format, whose verbs are the column's index
// (%[1]d), quoted name (%[2]s) and type (%[3]s), with a separator before each.
func (r *Replica) each(n Name, where Where, format string) string {
	var b strings.Builder
	for i, c := range r.Columns {
		if where(i) {
			fmt.Fprintf(&b, format, i, n.QuoteColumn(c.Name), c.Type)
		}
	}
	return b.String()
}
