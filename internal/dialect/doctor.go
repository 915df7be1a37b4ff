package dialect

// Clock returns the database's clock, in milliseconds since 1970.
func (n Name) Clock() string {
	switch n {
	case MySQL:
		return "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000"
	case SQLite:
		return "SELECT CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"
	}
	return "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
}

// Privileges returns a statement for each thing that is done to a table, by its
// name. They touch no row: the database checks the right to do it all the same.
// column is one of the table's that is written.
func (n Name) Privileges(table, column string) map[string]string {
	t, c := n.Quote(table), n.QuoteColumn(column)
	return map[string]string{
		"SELECT": "SELECT " + c + " FROM " + t + " WHERE 1 = 0",
		"INSERT": "INSERT INTO " + t + " (" + c + ") SELECT " + c + " FROM " + t + " WHERE 1 = 0",
		"UPDATE": "UPDATE " + t + " SET " + c + " = " + c + " WHERE 1 = 0",
		"DELETE": "DELETE FROM " + t + " WHERE 1 = 0",
	}
}

// OldTransactions lists what keeps the database from cleaning up after deletions,
// for at least $1 seconds, the oldest first: what it is, and for how many seconds it
// has. Empty for SQLite, where nothing does.
func (n Name) OldTransactions() string {
	switch n {
	case Postgres:
		return postgresOldTransactions
	case MySQL:
		return mysqlOldTransactions
	}
	return ""
}

// A prepared transaction and a replication slot hold vacuum back as a session does.
// How old a slot's is cannot be told in time; one that nobody uses is named at once.
const postgresOldTransactions = `
SELECT what, age FROM (
    SELECT format('session %s of user %s, application %L, %s', pid, usename, application_name, state) AS what,
           extract(epoch FROM clock_timestamp() - xact_start)::bigint AS age
    FROM pg_stat_activity
    WHERE (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL) AND pid <> pg_backend_pid() AND backend_type = 'client backend'
    UNION ALL
    SELECT format('prepared transaction %L of user %s', gid, owner), extract(epoch FROM clock_timestamp() - prepared)::bigint
    FROM pg_prepared_xacts
    UNION ALL
    SELECT format('replication slot %s, which nobody uses', slot_name), $1::bigint
    FROM pg_replication_slots WHERE NOT active AND (xmin IS NOT NULL OR catalog_xmin IS NOT NULL)
) held
WHERE age >= $1::bigint
ORDER BY age DESC LIMIT 20`

const mysqlOldTransactions = `
SELECT CONCAT('connection ', trx_mysql_thread_id, ', transaction ', trx_id), TIMESTAMPDIFF(SECOND, trx_started, NOW())
FROM information_schema.innodb_trx
WHERE TIMESTAMPDIFF(SECOND, trx_started, NOW()) >= ?1
ORDER BY trx_started LIMIT 20`

// MySQLMode returns the SQL mode that sessions have which do not set their own.
const MySQLMode = `SELECT @@GLOBAL.sql_mode`
