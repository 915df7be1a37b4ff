package outbox

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/lockstep-go/lockstep/internal/dialect"
)

// ErrNotFlushed reports that a transaction was to be committed while a Tx around
// it had marks that were not flushed, so that their events would have been lost.
// It was rolled back instead.
var ErrNotFlushed = errors.New("marked and not flushed")

// errInTx reports a Commit or Rollback inside of InTx.
var errInTx = errors.New("outbox: InTx ends its transaction itself: return nil from its function to commit, an error to roll back")

// errEnded reports that a function given to InTx has run COMMIT or ROLLBACK.
var errEnded = errors.New("outbox: the transaction was ended by a statement within the function of InTx, and what it marked may not be recorded: return nil to commit, an error to roll back")

// errOver reports the use of a Tx after its end.
var errOver = fmt.Errorf("outbox: the transaction has ended, and its Tx with it: begin another: %w", sql.ErrTxDone)

// end makes every later use of the Tx an error.
func (tx *Tx) end() { tx.ended, tx.marks = errOver, nil }

// Commit flushes and commits the transaction. Whoever wraps a transaction can
// end it so and have no Flush to forget. When the flush fails, the transaction
// is rolled back. Inside of [Outbox.InTx] it is an error.
func (tx *Tx) Commit(ctx context.Context) error {
	if tx.wrapped == nil {
		return cmp.Or(tx.ended, errInTx)
	}
	defer tx.end()
	if err := tx.Flush(ctx); err != nil {
		_ = tx.wrapped.Rollback()
		return err
	}
	if err := tx.wrapped.Commit(); err != nil {
		return fmt.Errorf("outbox: commit: %w", err)
	}
	return nil
}

// Rollback rolls the transaction back and forgets its marks. After its end it
// does nothing and returns sql.ErrTxDone, so it may be deferred. Inside of
// [Outbox.InTx] it is an error.
func (tx *Tx) Rollback() error {
	if tx.wrapped == nil {
		return cmp.Or(tx.ended, errInTx)
	}
	defer tx.end()
	return tx.wrapped.Rollback()
}

// Open is sql.Open with a guard: on the pool it returns, a commit that would lose
// events fails with [ErrNotFlushed] and rolls back, whoever commits. That covers
// transactions that an ORM or a query builder begins and ends, once [Outbox.Wrap]
// was called with them.
//
// The guard cannot see rows that nobody marked, marks in a Tx that wraps a
// transaction of another pool, and a COMMIT that is sent as a statement. It costs
// no round trip. Use it for every pool of an Outbox or for none: with a guard
// elsewhere, Wrap costs an unguarded pool a round trip.
func (ob *Outbox) Open(driverName, dataSourceName string) (*sql.DB, error) {
	db, err := sql.Open(driverName, dataSourceName)
	if err != nil {
		return nil, err
	}
	inner := db.Driver()
	if err := db.Close(); err != nil { // it has no connections yet
		return nil, err
	}
	if d, ok := inner.(driver.DriverContext); ok {
		connector, err := d.OpenConnector(dataSourceName)
		if err != nil {
			return nil, err
		}
		return sql.OpenDB(ob.Guard(connector)), nil
	}
	return sql.OpenDB(ob.Guard(namedSource{inner, dataSourceName})), nil
}

// Guard puts the guard of [Outbox.Open] around a driver's connector, for
// sql.OpenDB. Connections that (*sql.Conn).Raw hands out are the guard's own;
// the driver's is in their field Conn.
func (ob *Outbox) Guard(c driver.Connector) driver.Connector {
	announce := (*Tx).announce
	ob.announce.Store(&announce)
	return guardedConnector{c}
}

// namedSource connects through a driver that has no connectors.
type namedSource struct {
	driver driver.Driver
	name   string
}

func (s namedSource) Connect(context.Context) (driver.Conn, error) { return s.driver.Open(s.name) }
func (s namedSource) Driver() driver.Driver                        { return s.driver }

type guardedConnector struct{ driver.Connector }

func (c guardedConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &GuardedConn{Conn: conn}, nil
}

// announcement is the context that carries a Tx to its connection. It never ends.
type announcement struct{ tx *Tx }

type announced struct{} // its key

func (announcement) Deadline() (deadline time.Time, ok bool) { return time.Time{}, false }
func (announcement) Done() <-chan struct{}                   { return nil }
func (announcement) Err() error                              { return nil }

func (a announcement) Value(key any) any {
	if key == (announced{}) {
		return a.tx
	}
	return nil
}

// announce tells the connection of a wrapped transaction about tx. On a guarded
// connection that is no I/O; elsewhere it is a statement without effect.
func (tx *Tx) announce() {
	_, _ = tx.tx.ExecContext(announcement{tx}, dialect.Nothing)
}

// GuardedConn is a connection of a pool from [Outbox.Open]. It forwards
// everything to the driver's, and looks for marks at each commit.
type GuardedConn struct {
	driver.Conn // the driver's own

	wrapped []*Tx // around the transaction under way
}

// ExecContext takes notice of a Tx that announces itself.
func (c *GuardedConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if tx, ok := ctx.Value(announced{}).(*Tx); ok && query == dialect.Nothing {
		c.wrapped = append(c.wrapped, tx)
		return driver.ResultNoRows, nil
	}
	if conn, ok := c.Conn.(driver.ExecerContext); ok {
		return conn.ExecContext(ctx, query, args)
	}
	return nil, driver.ErrSkip
}

// QueryContext forwards to the driver.
func (c *GuardedConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if conn, ok := c.Conn.(driver.QueryerContext); ok {
		return conn.QueryContext(ctx, query, args)
	}
	return nil, driver.ErrSkip
}

// PrepareContext forwards to the driver.
func (c *GuardedConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if conn, ok := c.Conn.(driver.ConnPrepareContext); ok {
		return conn.PrepareContext(ctx, query)
	}
	return c.Prepare(query)
}

// BeginTx begins a transaction with a guard around it.
func (c *GuardedConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	c.wrapped = nil
	tx, err := c.begin(ctx, opts)
	if err != nil {
		return nil, err
	}
	return guardedTx{tx, c}, nil
}

func (c *GuardedConn) begin(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if conn, ok := c.Conn.(driver.ConnBeginTx); ok {
		return conn.BeginTx(ctx, opts)
	}
	if opts != (driver.TxOptions{}) {
		return nil, errors.New("outbox: the driver has neither isolation levels nor read-only transactions")
	}
	return c.Conn.Begin() //nolint:staticcheck // all that such a driver has
}

// Ping forwards to the driver.
func (c *GuardedConn) Ping(ctx context.Context) error {
	if conn, ok := c.Conn.(driver.Pinger); ok {
		return conn.Ping(ctx)
	}
	return nil
}

// ResetSession forwards to the driver.
func (c *GuardedConn) ResetSession(ctx context.Context) error {
	if conn, ok := c.Conn.(driver.SessionResetter); ok {
		return conn.ResetSession(ctx)
	}
	return nil
}

// IsValid forwards to the driver.
func (c *GuardedConn) IsValid() bool {
	conn, ok := c.Conn.(driver.Validator)
	return !ok || conn.IsValid()
}

// CheckNamedValue forwards to the driver.
func (c *GuardedConn) CheckNamedValue(v *driver.NamedValue) error {
	if conn, ok := c.Conn.(driver.NamedValueChecker); ok {
		return conn.CheckNamedValue(v)
	}
	return driver.ErrSkip
}

type guardedTx struct {
	driver.Tx
	conn *GuardedConn
}

func (t guardedTx) Commit() error {
	defer t.conn.forget()
	for _, tx := range t.conn.wrapped {
		what, marked := tx.marked()
		if !marked {
			continue
		}
		err := fmt.Errorf("outbox: %s: %w: call Tx.Flush before the commit, or end the transaction with Tx.Commit", what, ErrNotFlushed)
		return errors.Join(err, t.Tx.Rollback())
	}
	return t.Tx.Commit()
}

func (t guardedTx) Rollback() error {
	defer t.conn.forget()
	return t.Tx.Rollback()
}

func (c *GuardedConn) forget() { c.wrapped = nil }

// marked names the first mark, if there is one.
func (tx *Tx) marked() (what string, marked bool) {
	for _, m := range tx.marks {
		switch {
		case len(m.at) > 0:
			return m.entity + "/" + firstOf(m.live()), true
		case len(m.messages) > 0:
			return "a message on " + m.messages[0].topic, true
		}
	}
	return "", false
}
