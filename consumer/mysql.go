package consumer

import (
	"context"
	"database/sql"
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

// mysqlPlain reports whether no other text of a key is equal to this one for MySQL,
// so that a stored key is recognized by its text: true of whole numbers, UUIDs,
// binary strings, and of text that does not end in spaces, which do not count in
// most collations.
func mysqlPlain(column *dialect.Column, value any) bool {
	switch column.Base {
	case "tinyint", "smallint", "mediumint", "int", "bigint":
		return !strings.HasPrefix(column.Type, "tinyint(1)")
	case "uuid", "binary", "varbinary":
		return true
	case "char", "varchar":
		text, ok := value.(string)
		return ok && !strings.HasSuffix(text, " ")
	}
	return false
}
