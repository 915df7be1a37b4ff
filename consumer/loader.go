package consumer

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// Tables returns the tables that follow entities, by CQRS ID, with their defaults
// filled in.
func (c *Consumer) Tables() map[string]Table {
	c.mu.Lock()
	defer c.mu.Unlock()
	tables := make(map[string]Table, len(c.entities))
	for _, e := range c.entities {
		t := e.table
		t.Columns = maps.Clone(t.Columns)
		tables[e.id] = t
	}
	return tables
}

// ErrUnknownEntity reports a CQRS ID that no table follows.
var ErrUnknownEntity = errors.New("consumer: unknown entity")

// Loader applies rows and deletions to one entity's table that come by another
// way than the broker: from a dump, or from a comparison with the master. They
// count as the master's SAVEs and DELETEs, so they are safe beside live events:
// what is newer here stays. Make it with [Consumer.Loader]; it is used by one
// goroutine, and closed.
type Loader struct {
	c      *Consumer
	to     *replica
	engine engine
	tx     *sql.Tx // nil: a transaction for each call
}

// Loaded is what became of the rows of one call.
type Loaded struct {
	// Applied counts rows that were written or deleted, Skipped those that are
	// here in the same or a newer state.
	Applied, Skipped int
	// Failed are the rows that do not fit, by their place in the call. The others
	// were applied all the same.
	Failed map[int]error
}

// Loader checks the entity's table and returns a loader for it. With a
// transaction, everything it does happens in there, and the caller commits; its
// pool needs a second connection for preparing statements. That transaction
// should be READ COMMITTED: another locks out live events on MySQL that would
// go in between. With nil each call is a transaction of its own.
func (c *Consumer) Loader(ctx context.Context, cqrsID string, tx *sql.Tx) (*Loader, error) {
	to, err := c.tableOf(ctx, cqrsID, "load")
	if err != nil {
		return nil, err
	}
	l := &Loader{c: c, to: to, engine: c.newEngine(), tx: tx}
	if tx != nil && c.db.Stats().MaxOpenConnections == 1 {
		return nil, errors.New("consumer: loading in one transaction needs a second connection: raise the pool's limit")
	}
	return l, nil
}

// Clear deletes all rows of the table. What is known of keys that were deleted
// before stays, so that their late events stay stale.
func (l *Loader) Clear(ctx context.Context) (rows int64, err error) {
	if l.tx != nil {
		return l.clear(ctx, l.tx)
	}
	defer func() { err = dialect.WithCause(ctx, err) }()
	tx, err := l.c.db.BeginTx(ctx, nil)
	if err != nil {
		return 0, fmt.Errorf("consumer: begin: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // does nothing after a commit
	if rows, err = l.clear(ctx, tx); err != nil {
		return 0, err
	}
	return rows, tx.Commit()
}

func (l *Loader) clear(ctx context.Context, tx *sql.Tx) (int64, error) {
	for _, statement := range l.c.dialect.ReplicaClear(l.to.Table) {
		done, err := tx.ExecContext(ctx, statement.SQL)
		switch {
		case err != nil:
			return 0, fmt.Errorf("consumer: clear %s: %w", l.to.Table, err)
		case statement.Counts:
			return done.RowsAffected()
		}
	}
	return 0, nil
}

// Save applies rows as an event's data has them.
func (l *Loader) Save(ctx context.Context, rows []json.RawMessage) (Loaded, error) {
	loaded := Loaded{Failed: map[int]error{}}
	batch := make([]*incoming, 0, len(rows))
	places := make(map[*incoming]int, len(rows))
	for i, data := range rows {
		in := l.incoming(event.Save)
		in.ev.Data = data
		if err := in.readData(); err != nil {
			loaded.Failed[i] = err
			continue
		}
		batch, places[in] = append(batch, in), i
	}
	err := l.apply(ctx, batch, places, &loaded)
	return loaded, err
}

// Delete deletes the rows of keys, which are JSON numbers or texts. A row that was
// changed after the given time, which is when the master lacked the keys, stays.
// The deleted ones leave tombstones.
func (l *Loader) Delete(ctx context.Context, keys []json.RawMessage, lacked time.Time) (Loaded, error) {
	loaded := Loaded{Failed: map[int]error{}}
	batch := make([]*incoming, 0, len(keys))
	places := make(map[*incoming]int, len(keys))
	for i, key := range keys {
		in := l.incoming(event.Delete)
		values, err := l.to.keyValues(key)
		if err != nil {
			loaded.Failed[i] = in.fault(nil, nil, err)
			continue
		}
		in.values, in.key = values, l.to.keyOf(values)
		in.Updated = lacked.UTC().Truncate(time.Microsecond)
		in.Revision = -1 // of no weight: the time decides
		batch, places[in] = append(batch, in), i
	}
	err := l.apply(ctx, batch, places, &loaded)
	return loaded, err
}

// incoming returns a message without its data. Revisions of a dump may be a
// django-cqrs master's, which restart.
func (l *Loader) incoming(signal event.Signal) *incoming {
	return &incoming{
		ev: event.Event{Signal: signal, CQRSID: l.to.entity.id}, to: l.to,
		change: change{signal: signal, restarts: true},
	}
}

func (l *Loader) apply(ctx context.Context, batch []*incoming, places map[*incoming]int, loaded *Loaded) error {
	if len(batch) == 0 {
		return nil
	}
	res, err := l.once(ctx, batch)
	for attempt := 0; err != nil && l.tx == nil && attempt < conflictAttempts && dialect.Classify(err) == dialect.Conflict; attempt++ {
		if !sleep(ctx, conflictBackoff(attempt)) {
			return ctx.Err()
		}
		res, err = l.once(ctx, batch)
	}
	if err != nil {
		return err
	}
	loaded.Applied += res.applied
	loaded.Skipped += len(batch) - res.applied - len(res.failures)
	for _, f := range res.failures {
		loaded.Failed[places[f.in]] = f.err
	}
	return nil
}

func (l *Loader) once(ctx context.Context, batch []*incoming) (result, error) {
	if l.tx != nil {
		return l.engine.within(ctx, l.tx, batch)
	}
	ctx, cancel := context.WithTimeout(ctx, l.c.cfg.TransactionTimeout)
	defer cancel()
	return l.engine.apply(ctx, batch, l.engine.plan(batch))
}

// Close closes what the loader has prepared. It ends no transaction.
func (l *Loader) Close() error { return l.engine.close() }

// within takes the table's lock with the caller's transaction, also where that makes
// it, for Clear may hold it there already.
func (m *mysql) within(ctx context.Context, tx *sql.Tx, batch []*incoming) (result, error) {
	all := m.bounds(batch, nil)
	if err := m.prepareFor(ctx, all); err != nil {
		return result{}, err
	}
	table := batch[0].to.Table // a loader has one
	if _, err := tx.ExecContext(ctx, dialect.ReplicaLock.Found, table); err != nil {
		return result{}, fmt.Errorf("consumer: make the lock of %s: %w", table, err)
	}
	if err := m.lock(ctx, tx, batch); err != nil {
		return result{}, err
	}
	return m.run(ctx, tx, all)
}

func (p *postgres) within(ctx context.Context, tx *sql.Tx, batch []*incoming) (result, error) {
	iso := &isolation{postgres: p}
	if err := p.trim(); err != nil {
		return result{}, fmt.Errorf("consumer: close statements: %w", err)
	}
	if err := p.prepareParts(ctx, batch); err != nil {
		return result{}, err
	}
	if _, err := tx.ExecContext(ctx, beginning(batch)); err != nil {
		return result{}, fmt.Errorf("consumer: lock: %w", err)
	}
	if _, err := tx.ExecContext(ctx, dialect.ReplicaImmediate); err != nil {
		return result{}, fmt.Errorf("consumer: isolate: %w", err)
	}
	err := iso.rounds(ctx, tx, batch)
	return iso.result, err
}
