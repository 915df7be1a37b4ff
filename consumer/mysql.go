package consumer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// mysql applies a batch in one transaction under the tables' locks.
type mysql struct {
	*decider
	// locks are the tables whose lock is known to exist.
	locks map[string]bool
}

func (c *Consumer) newMySQL(readCommitted *sql.TxOptions) *mysql {
	return &mysql{
		decider: &decider{statements: c.newStatements(readCommitted), dialect: dialect.MySQL, value: mysqlValue, plain: mysqlPlain, rows: 100, pieces: 5},
		locks:   make(map[string]bool),
	}
}

func (m *mysql) apply(ctx context.Context, batch []*incoming, plan any) (result, error) {
	all := m.bounds(batch, plan)
	if err := m.prepareFor(ctx, all); err != nil {
		return result{}, err
	}
	if err := m.makeLocks(ctx, batch); err != nil {
		return result{}, err
	}
	var r result
	err := m.transact(ctx, func(tx *sql.Tx) error {
		err := m.lock(ctx, tx, batch)
		if err == nil {
			r, err = m.run(ctx, tx, all)
		}
		return err
	})
	if err != nil {
		return result{}, err
	}
	return r, nil
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

// mayBeNumbered reports whether a key has a 0, which MySQL takes for the next number in
// an AUTO_INCREMENT column unless its mode is NO_AUTO_VALUE_ON_ZERO.
func (k *subject) mayBeNumbered() bool { return slices.Contains(k.key(), any(int64(0))) }

// numbered returns an error for an inserted row of key 0 to which MySQL has given
// another number.
func (k *subject) numbered(done sql.Result) error {
	if id, err := done.LastInsertId(); err != nil || id == 0 {
		return nil //nolint:nilerr // the driver knows of no numbers
	}
	return k.messages[0].in.fault(nil, nil, errors.New("key 0 is the next number for an AUTO_INCREMENT column: "+
		"take AUTO_INCREMENT from the column, or add NO_AUTO_VALUE_ON_ZERO to the session's sql_mode"))
}

// mysqlPlain reports whether no other text of a key is equal to this one for MySQL,
// so that a stored key is recognized by its text: true of whole numbers, UUIDs,
// binary strings, and of text that does not end in spaces, which do not count in
// most collations. 0 is told apart because it may stand for the next number, see
// [subject.mayBeNumbered].
func mysqlPlain(column *dialect.Column, value any) bool {
	switch column.Base {
	case "tinyint", "smallint", "mediumint", "int", "bigint":
		return value != int64(0) && !column.IsTinyBool()
	case "uuid", "binary", "varbinary":
		return true
	case "char", "varchar":
		text, ok := value.(string)
		return ok && !strings.HasSuffix(text, " ")
	}
	return false
}
