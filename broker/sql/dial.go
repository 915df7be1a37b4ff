package sql

import (
	"context"
	"database/sql/driver"
	"errors"
	"net"
	"sync"
	"time"
)

// sessions gives connections whose statements see what was committed before each of them, whatever the
// default of the role or the database is: what waits for a lock goes by what it finds behind it.
type sessions struct{ driver.Connector }

// Connect is database/sql's.
func (s sessions) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := s.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := c.(driver.ExecerContext).ExecContext(ctx, readCommitted, nil); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// dialer gives connections that end a silence: lib/pq waits without limit for the answer of a
// server that has been frozen or cut off, whatever the context of the call says.
type dialer struct{ silence time.Duration }

// Dial connects.
func (d dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

// DialTimeout connects in that time.
func (d dialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

// DialContext connects before ctx ends.
func (d dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, silence: d.silence}, nil
}

// conn fails when nothing comes for too long while somebody waits for it. Connections that are not
// in use are not read from.
type conn struct {
	net.Conn
	silence time.Duration

	mu       sync.Mutex
	deadline time.Time // lib/pq's, while it connects
}

// SetDeadline sets a deadline that goes before the silence.
func (c *conn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	return c.Conn.SetDeadline(t)
}

func (c *conn) limit() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := time.Now().Add(c.silence); c.deadline.IsZero() || t.Before(c.deadline) {
		return t
	}
	return c.deadline
}

// Read waits for an answer, but not for ever.
func (c *conn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(c.limit()); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// Write waits for the server to take what it is sent, but not for ever.
func (c *conn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(c.limit()); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
