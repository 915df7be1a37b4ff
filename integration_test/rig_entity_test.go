package integration_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/outbox"
)

// retryDelay is the pause before a message that does not fit is tried again.
const retryDelay = time.Second

// entity is a master's table and the replica's that follows it, with columns of
// other names.
type entity struct {
	name    string // for tests
	id      string // CQRS ID, set by the rig
	table   string
	ref     string // the replica's table; none: nobody replicates the entity
	columns []column
	retries int // consumer.Table's MaxRetries
}

// column is a field with its type, and the replica's column; refType is the same
// type when it is empty.
type column struct{ field, fieldType, ref, refType string }

// account is the entity of most scenarios.
func account() entity {
	return entity{name: "account", table: "accounts", ref: "account_ref", columns: []column{
		{"id", "bigint PRIMARY KEY", "account_id", ""},
		{"name", "text NOT NULL", "title", ""},
		{"balance", "numeric(20,4) NOT NULL DEFAULT 0", "amount", "numeric(20,4)"},
		{"note", "text", "remark", ""},
	}}
}

func (e entity) replicated() bool { return e.ref != "" }

func (e entity) masterDDL() string {
	return e.ddl(e.table, func(c column) string { return c.field + " " + c.fieldType })
}

func (e entity) replicaDDL() string {
	return e.ddl(e.ref, func(c column) string {
		if c.refType == "" {
			return c.ref + " " + c.fieldType
		}
		return c.ref + " " + c.refType
	})
}

func (e entity) ddl(table string, column func(column) string) string {
	return fmt.Sprintf("CREATE TABLE %s (%s)", table, e.list(column))
}

func (e entity) list(column func(column) string) string {
	columns := make([]string, len(e.columns))
	for i, c := range e.columns {
		columns[i] = column(c)
	}
	return strings.Join(columns, ", ")
}

// masterRows and replicaRows give the same result when both sides are equal.
func (e entity) masterRows() string {
	return fmt.Sprintf("SELECT %s, cqrs_revision, cqrs_updated FROM %s ORDER BY 1",
		e.list(func(c column) string { return c.field }), e.table)
}

func (e entity) replicaRows() string {
	return fmt.Sprintf("SELECT %s, cqrs_revision, cqrs_updated FROM %s ORDER BY 1",
		e.list(func(c column) string { return c.ref }), e.ref)
}

// consumerTable is the replica as the consumer is told of it.
func (e entity) consumerTable() consumer.Table {
	t := consumer.Table{Name: e.ref, Key: e.columns[0].ref, Columns: map[string]string{}, MaxRetries: e.retries, RetryDelay: retryDelay}
	for _, c := range e.columns {
		t.Columns[c.field] = c.ref
	}
	return t
}

// yaml is the same for the file that `relay consume` reads.
func (e entity) yaml() string {
	columns := e.list(func(c column) string { return c.field + ": " + c.ref })
	retries := ""
	switch e.retries {
	case 0: // the default
	case consumer.NoRetries:
		retries = ", max_retries: 0"
	default:
		retries = fmt.Sprint(", max_retries: ", e.retries)
	}
	return fmt.Sprintf("  %s: {table: %s, key: %s, columns: {%s}, retry_delay: %v%s}\n", e.id, e.ref, e.columns[0].ref, columns, retryDelay, retries)
}

// put creates or changes an account and marks it.
func (r *rig) put(ctx context.Context, tx *outbox.Tx, key int64, name string) error {
	statement := `INSERT INTO accounts (id, name, balance, note) VALUES ($1, $2, $3, $4)
ON CONFLICT (id) DO UPDATE SET name = excluded.name, balance = accounts.balance + 1, note = excluded.note`
	if r.dialect == outbox.MySQL {
		statement = `INSERT INTO accounts (id, name, balance, note) VALUES (?, ?, ?, ?)
ON DUPLICATE KEY UPDATE name = VALUES(name), balance = balance + 1, note = VALUES(note)`
	}
	_, err := tx.ExecContext(ctx, statement, key, name, float64(key)+0.25, "of "+name)
	if err != nil {
		return err
	}
	return tx.Saved(r.id("account"), key)
}
