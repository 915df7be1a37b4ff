package consumer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// mysql applies a batch message by message in one transaction: what is stored,
// decide, write. A statement that fails on data leaves no trace there either, so
// the rest of the batch is not touched by it.
type mysql struct {
	*statements
	// locks are the tables whose lock is known to exist.
	locks map[string]bool
}

// Tasks beyond those of sqlite.
const (
	taskTombstone = "tombstone"
	taskUpdate    = "update"
)

func (m *mysql) plan([]*incoming) any { return nil }

func (m *mysql) apply(ctx context.Context, batch []*incoming, _ any) (result, error) {
	if err := m.trim(); err != nil {
		return result{}, fmt.Errorf("consumer: close statements: %w", err)
	}
	batch = byTable(batch)
	for _, in := range batch {
		if err := m.prepareFor(ctx, in); err != nil {
			return result{}, err
		}
	}
	if err := m.makeLocks(ctx, batch); err != nil {
		return result{}, err
	}
	var r result
	err := m.transact(ctx, func(tx *sql.Tx) error {
		if err := m.lock(ctx, tx, batch); err != nil {
			return err
		}
		for _, in := range batch {
			v, err := m.one(ctx, tx, in)
			switch {
			case err == nil:
				r.count(v)
			case isData(err):
				r.isolated = true
				r.fail(in, err)
			default:
				return err
			}
		}
		return nil
	})
	if err != nil {
		return result{}, err
	}
	return r, nil
}

func (m *mysql) prepareFor(ctx context.Context, in *incoming) error {
	r := in.to
	errs := []error{
		m.prepare(ctx, task{r, taskStored, ""}, r.MySQLStored),
		m.prepare(ctx, task{r, taskTombstone, ""}, r.MySQLTombstone),
	}
	if in.signal == event.Delete {
		errs = append(errs,
			m.prepare(ctx, task{r, taskDelete, ""}, r.MySQLDelete),
			m.prepare(ctx, task{r, taskBury, ""}, r.MySQLBury))
	} else {
		errs = append(errs,
			m.prepare(ctx, task{r, taskSave, in.absent}, func() string { return r.MySQLInsert(in.writes) }),
			m.prepare(ctx, task{r, taskUpdate, in.absent}, func() string { return r.MySQLUpdate(in.writes) }),
			m.prepare(ctx, task{r, taskRevive, ""}, r.MySQLRevive))
	}
	return errors.Join(errs...)
}

// makeLocks makes sure that every table of the batch has its lock.
func (m *mysql) makeLocks(ctx context.Context, batch []*incoming) error {
	for _, in := range batch {
		if m.locks[in.to.Table] {
			continue
		}
		if _, err := m.db.ExecContext(ctx, dialect.ReplicaLock.Found, in.to.Table); err != nil {
			return fmt.Errorf("consumer: make the lock of %s: %w", in.to.Table, err)
		}
		m.locks[in.to.Table] = true
	}
	return nil
}

// lock takes the batch's locks, in one order everywhere.
func (m *mysql) lock(ctx context.Context, tx *sql.Tx, batch []*incoming) error {
	exclusive := make(map[string]bool)
	for _, in := range batch {
		exclusive[in.to.Table] = exclusive[in.to.Table] || in.signal == event.Delete
	}
	tables := make([]string, 0, len(exclusive))
	for table := range exclusive {
		tables = append(tables, table)
	}
	slices.Sort(tables)
	for _, table := range tables {
		query, one := dialect.ReplicaLock.Shared, 0
		if exclusive[table] {
			query = dialect.ReplicaLock.Exclusive
		}
		if err := tx.QueryRowContext(ctx, query, table).Scan(&one); err != nil {
			delete(m.locks, table) // if it is gone, the next attempt makes it
			return fmt.Errorf("consumer: lock %s: %w", table, err)
		}
	}
	return nil
}

// one applies one message. Its errors on data are a *DataError.
func (m *mysql) one(ctx context.Context, tx *sql.Tx, in *incoming) (verdict, error) {
	key, err := mysqlKey(in)
	if err != nil {
		return verdict{}, err
	}
	have, err := m.stored(ctx, tx, in, key)
	if err != nil {
		return verdict{}, err
	}
	return m.meet(ctx, tx, in, key, have)
}

// mysqlKey returns the values of the key's columns.
func mysqlKey(in *incoming) ([]any, error) {
	var key []any
	for _, slot := range in.to.keySlots() {
		value, err := mysqlValue(in.to.column(slot), in.values[slot])
		if err != nil {
			return nil, in.fault(in.to.column(slot), in.values[slot], err)
		}
		key = append(key, value)
	}
	return key, nil
}

// meet applies a message to what was stored when that was read.
func (m *mysql) meet(ctx context.Context, tx *sql.Tx, in *incoming, key []any, have state) (verdict, error) {
	v, err := m.write(ctx, tx, in, key, have)
	if have.presence == row || !dialect.IsDuplicate(err) {
		return v, err
	}
	// Either another consumer has made the row since, or a row of another key has
	// the value of a unique column.
	if have, err := m.stored(ctx, tx, in, key); err != nil || have.presence == row {
		if err != nil {
			return verdict{}, err
		}
		return m.write(ctx, tx, in, key, have)
	}
	return v, err
}

func (m *mysql) write(ctx context.Context, tx *sql.Tx, in *incoming, key []any, have state) (verdict, error) {
	v, then := decide(have, in.change)
	switch {
	case v.outcome != applied:
		return v, nil
	case then.presence == tombstone:
		return v, m.bury(ctx, tx, in, key, have, then)
	}
	return v, m.save(ctx, tx, in, key, have)
}

// stored reads what decide needs to know. A row counts more than a tombstone.
func (m *mysql) stored(ctx context.Context, tx *sql.Tx, in *incoming, key []any) (state, error) {
	have, err := m.version(ctx, tx, in, taskStored, key...)
	if have.presence != nothing || err != nil {
		return have, err
	}
	return m.version(ctx, tx, in, taskTombstone, in.key)
}

func (m *mysql) version(ctx context.Context, tx *sql.Tx, in *incoming, what string, key ...any) (state, error) {
	var have state
	var updated dialect.Time
	ctx, done := m.limit(ctx)
	defer done()
	err := m.in(ctx, tx, task{in.to, what, ""}).QueryRowContext(ctx, key...). //nolint:sqlclosecheck // cached; closed by database/sql with the transaction
											Scan(&have.presence, &have.Revision, &updated)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return state{}, nil
	case err != nil:
		return state{}, m.wrap(in, err)
	}
	have.Updated = updated.Time
	return have, nil
}

func (m *mysql) save(ctx context.Context, tx *sql.Tx, in *incoming, key []any, have state) error {
	args := make([]any, 0, len(in.to.Columns)+3)
	for i := range in.to.Columns {
		if !in.writes(i) {
			continue
		}
		raw := in.values[slotColumn+i]
		value, err := mysqlValue(&in.to.Columns[i], raw)
		if err != nil {
			return in.fault(&in.to.Columns[i], raw, err)
		}
		args = append(args, value)
	}
	args = append(args, in.Revision, dialect.MySQL.Time(in.Updated))
	if have.presence == row {
		return m.exec(ctx, tx, in, task{in.to, taskUpdate, in.absent}, append(args, key...)...)
	}
	if err := m.exec(ctx, tx, in, task{in.to, taskSave, in.absent}, slices.Insert(args, 0, key[0])...); err != nil {
		return err
	}
	if have.presence != tombstone {
		return nil
	}
	return m.exec(ctx, tx, in, task{in.to, taskRevive, ""}, in.key)
}

func (m *mysql) bury(ctx context.Context, tx *sql.Tx, in *incoming, key []any, have, then state) error {
	if have.presence == row { // the row first: that is what a foreign key can refuse
		if err := m.exec(ctx, tx, in, task{in.to, taskDelete, ""}, key...); err != nil {
			return err
		}
	}
	return m.exec(ctx, tx, in, task{in.to, taskBury, ""}, in.key, then.Revision, dialect.MySQL.Time(then.Updated))
}

func (m *mysql) exec(ctx context.Context, tx *sql.Tx, in *incoming, t task, args ...any) error {
	ctx, done := m.limit(ctx)
	defer done()
	_, err := m.in(ctx, tx, t).ExecContext(ctx, args...) //nolint:sqlclosecheck // cached; closed by database/sql with the transaction
	return m.wrap(in, err)
}

// wrap makes a *DataError of an error on data, with the column that the server names.
func (m *mysql) wrap(in *incoming, err error) error {
	switch {
	case err == nil:
		return nil
	case !isData(err):
		return fmt.Errorf("consumer: apply to %s: %w", in.to.Table, err)
	}
	name := dialect.ColumnOf(err)
	for slot := slotKey; slot < in.to.slots() && name != ""; slot++ {
		if c := in.to.column(slot); c.Name == name {
			return in.fault(c, in.values[slot], err)
		}
	}
	return in.fault(nil, nil, err)
}
