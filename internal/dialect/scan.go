package dialect

import "database/sql"

// Scan says which rows of an entity are read, in key order.
type Scan struct {
	EntityTable
	// Condition is what the rows have to meet, over the table as t. Its
	// placeholders start at 3: see [Name.ScanSQL].
	Condition string
	// From says that only keys behind a given one are read.
	From bool
}

// ScanSQL is the statements of a scan. Each but Count takes how many rows at
// most (1) and the key to start behind (2, null when From is not set); all take
// the condition's parameters behind these.
type ScanSQL struct {
	// Keys returns the keys' texts, on MySQL the keys' columns, and locks the rows against writers until the
	// transaction ends.
	Keys string
	// Rows returns what the events of the rows carry; its form is the dialect's.
	Rows string
	// Versions returns the keys' texts, the keys as JSON and the revisions; on MySQL
	// it is Rows without the fields.
	Versions string
	// Count returns how many rows there are; its first two parameters are null.
	Count string
}

// ScanParameter is the number of a scan condition's first placeholder.
const ScanParameter = 3

// ScanSQL builds the statements of a scan.
func (n Name) ScanSQL(s Scan) ScanSQL {
	switch n {
	case MySQL:
		return mysqlScan(s)
	case SQLite:
		return sqliteScan(s)
	}
	return postgresScan(s)
}

// SyncIsolation is the isolation of a transaction that locks rows and then reads
// them: what it reads after waiting for a lock has to be what was committed.
func (n Name) SyncIsolation() sql.IsolationLevel {
	if n == SQLite {
		return sql.LevelDefault
	}
	return sql.LevelReadCommitted
}
