package dialect

// Mark stands in [RelaySQL.Horizon] for a text by which it finds itself.
const Mark = "{mark}"

// RelaySQL is the read side's statements, to be run through [Name.Over]. Their parameters and results are the
// same for every database.
type RelaySQL struct {
	// Fetch reads rows in id order: those after id $1 and, where ids do not commit
	// in order, those in the ranges from $4[i] to $5[i] below it. At most $2 rows,
	// and no further once their payloads passed $3 bytes.
	// Results: id, topic, key, payload, metadata. Empty on MySQL, see [MySQLFetch].
	Fetch string
	// FetchShard is Fetch for one of several shards: the parameters after Fetch's are
	// the number of shards and the shard. Rows of other shards come without payload
	// and metadata, so that their ids are no gaps. Empty on MySQL.
	FetchShard string
	// Highest returns the highest id there is, or 0.
	Highest string
	// FetchIDs reads the rows of a list of ids ($1) in id order, bounded in bytes ($2).
	FetchIDs string
	// Horizon returns the lowest transaction id still running and the next one
	// to be given out. It is empty where ids commit in order, and Fetch then has
	// no $4 and $5.
	Horizon string
	// Touch, if there is one, is run before Horizon in a transaction with it, so that
	// this is known as running. Horizon then has, in place of each [Mark], a text that
	// no other statement has, and returns thirdly whether the answer knows of it: else
	// it is one of before.
	Touch string
	// HorizonByAge stands in for Horizon where the account may not see other
	// transactions: it returns a time by which those that may own a gap have ended,
	// as far as can be told, and the present time.
	HorizonByAge string

	// Bound makes the database end a transaction when its owner has left it alone for a
	// few seconds: this one, if it is run inside, or where there is an Unbound, all of
	// the session until that is run. Empty where the database cannot.
	Bound string
	// Unbound takes Bound back.
	Unbound string

	// Delete removes a list of ids ($1).
	Delete string
	// DeleteRun removes the ids from $1 to $2, for a third of the price. Empty where that
	// makes no difference.
	DeleteRun string
	// Bury copies row $1 to outbox_dead with error $2 and attempts $3.
	Bury string
	// Fail notes that row $1 failed for the $2nd time with error $3 and is to be
	// tried again in $4 milliseconds.
	Fail string
	// Mend forgets the failures of a list of ids ($1).
	Mend string
	// Failing lists the rows of shard $2 of $1 that are failing: id, topic, key, metadata, attempts,
	// milliseconds until the next try.
	Failing string
	// SweepFailures removes failures of rows that are gone.
	SweepFailures string

	// Look returns how many rows there are, counted up to a million, and the age
	// of the first in milliseconds, or null.
	Look string

	// Counts returns how many rows are failing, the age of the first of them in
	// milliseconds, or null, how many are dead, the number of shards that is wanted,
	// that of relays which share them, and the present time.
	Counts string
	// Leases lists the shards that were ever owned: shard, holder, term, position, how
	// many shards there were, milliseconds until the lease expires and since it was
	// renewed.
	Leases string

	// Failures lists at most $2 of the rows that are failing, after id $1, in id
	// order: id, topic, key, metadata, attempts, error, times of creation and of the
	// next try. Times are milliseconds since 1970.
	Failures string
	// Hasten makes the failures of a list of ids ($1) due now, with no attempt spent.
	Hasten string
	// GiveUp copies those of a list of ids ($1) that are failing to outbox_dead, with
	// their error and attempts. Where it does not also delete them, DeleteFailing follows.
	GiveUp string
	// GiveUpDeletes says that GiveUp deletes too.
	GiveUpDeletes bool
	// DeleteFailing removes those of a list of ids ($1) that are failing. Their failures
	// stay for Mend.
	DeleteFailing string
	// Letters lists at most $2 rows of outbox_dead after id $1, in id order: id,
	// topic, key, payload, metadata, attempts, error, times of creation and death.
	Letters string
	// Revive puts the dead rows of a list of ids ($1) back into the outbox under
	// new ids, in their order. Where it does not also delete them, Purge follows.
	Revive string
	// RevivePurges says that Revive deletes too.
	RevivePurges bool
	// Rewrite gives the dead row $1 another payload, $2.
	Rewrite string
	// Purge deletes the dead rows of a list of ids ($1).
	Purge string

	// Want sets the number of shards to $1.
	Want string
	// Survey returns the number of shards that is wanted and the number of relays.
	Survey string
	// Attend makes relay $1 one of them for $2 milliseconds.
	Attend string
	// Leave takes relay $1 off, and those whose time is over.
	Leave string
	// Agree locks the number of shards until the transaction ends.
	Agree string
	// Agreed returns the number of shards that is wanted and whether anybody still
	// holds one of another number than $1.
	Agreed string

	// Vacant returns whether shard $1 has no owner.
	Vacant string
	// Found makes the row of shard $1 if there is none, where Acquire does not.
	Found string
	// Acquire takes shard $1 for holder $2 for $3 milliseconds, one of $4, if it has no
	// owner, and returns the term. Where there is a Found, the term is the
	// inserted id that the driver reports, and no row affected means an owner.
	Acquire string
	// Renew keeps shard $1, held by $2 in term $3, for $4 milliseconds and notes position $5.
	Renew string
	// Release gives shard $1, held by $2 in term $3, up.
	Release string
	// Asleep notes for shard $1, held by $2 in term $3, whether ($4) writers should notify.
	Asleep string
}

// Relay returns the read side's statements.
func (n Name) Relay() RelaySQL {
	switch n {
	case MySQL:
		return mysqlRelay
	case SQLite:
		return sqliteRelay
	}
	return postgresRelay
}
