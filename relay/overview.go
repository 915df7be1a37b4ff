package relay

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// Overview is how an outbox stands, by the database's clock.
type Overview struct {
	// Pending is how many messages are in the outbox, counted up to a million.
	Pending int64
	// Oldest is the age of the one that was put in first; 0 when there is none.
	Oldest time.Duration
	// Failing is how many of them the broker refused and are tried again, Dead how many
	// were given up and are not in the outbox any more.
	Failing, Dead int64
	// OldestFailing is the age of the failing one that was put in first; 0 when none is.
	OldestFailing time.Duration
	// Shards is the number of shards that is wanted, Relays how many relays have
	// said that they share them: none say so while there is one shard.
	Shards, Relays int
	// Leases are those of all shards that ever had an owner.
	Leases []LeaseView
	// Now is the database's clock.
	Now time.Time
}

// LeaseView is a lease as it stands in the database.
type LeaseView struct {
	Shard, Shards int
	// Holder has the lease, or had it last; Term counts the owners.
	Holder string
	Term   int64
	// Position is the id up to which the holder had read when it renewed the lease.
	Position int64
	// Left is how long the lease is still good; not above 0 when nobody has it.
	Left time.Duration
	// Renewed is how long ago the holder last renewed it.
	Renewed time.Duration
}

// Overview returns how the outbox stands.
func (a *Admin) Overview(ctx context.Context) (Overview, error) {
	var o Overview
	var err error
	if o.Pending, o.Oldest, err = a.store.look(ctx); err != nil {
		return o, fmt.Errorf("relay: %w", err)
	}
	o.Leases, err = bounded(ctx, callTimeout, func(ctx context.Context) ([]LeaseView, error) {
		var now int64
		var oldest sql.NullInt64
		q := a.store.query(a.store.db)
		if err := q.QueryRowContext(ctx, a.store.sql.Counts).Scan(&o.Failing, &oldest, &o.Dead, &o.Shards, &o.Relays, &now); err != nil {
			return nil, err
		}
		o.OldestFailing = time.Duration(max(oldest.Int64, 0)) * time.Millisecond
		o.Now = time.UnixMilli(now)
		return a.store.leases(ctx)
	})
	if err != nil {
		return Overview{}, fmt.Errorf("relay: overview: %w", err)
	}
	return o, nil
}

// leases reads those of all shards.
func (s *store) leases(ctx context.Context) (leases []LeaseView, err error) {
	rows, err := s.query(s.db).QueryContext(ctx, s.sql.Leases)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var l LeaseView
		var left, renewed int64
		if err := rows.Scan(&l.Shard, &l.Holder, &l.Term, &l.Position, &l.Shards, &left, &renewed); err != nil {
			return nil, err
		}
		l.Left, l.Renewed = time.Duration(left)*time.Millisecond, time.Duration(renewed)*time.Millisecond
		leases = append(leases, l)
	}
	return leases, rows.Err()
}
