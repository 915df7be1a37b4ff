package testdb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"testing"
)

// Wrapped returns a connection pool on the same database, until the test ends, whose connections
// are what wrap makes of the driver's.
func Wrapped(t testing.TB, db *sql.DB, dsn string, wrap func(Conn) driver.Conn) *sql.DB {
	t.Helper()
	through := sql.OpenDB(wrapper{db.Driver(), dsn, wrap})
	t.Cleanup(func() { _ = through.Close() })
	return through
}

// Conn is a driver's connection with its way to begin a transaction, to be embedded in what wraps it.
type Conn struct{ driver.Conn }

// BeginTx is driver.ConnBeginTx.
func (c Conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	return c.Conn.(driver.ConnBeginTx).BeginTx(ctx, opts)
}

type wrapper struct {
	of   driver.Driver
	dsn  string
	wrap func(Conn) driver.Conn
}

func (w wrapper) Driver() driver.Driver { return w.of }

func (w wrapper) Connect(context.Context) (driver.Conn, error) {
	conn, err := w.of.Open(w.dsn)
	if err != nil {
		return nil, err
	}
	return w.wrap(Conn{conn}), nil
}
