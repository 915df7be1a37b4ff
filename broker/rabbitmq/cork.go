package rabbitmq

import (
	"net"
	"sync"
	"time"
)

// corkSize is how much a corked socket collects before it writes.
const corkSize = 64 << 10

// corked is a socket whose writes can be held back for a moment: amqp091 flushes after each message,
// which costs one system call here and one wake-up of RabbitMQ's reader there for every message.
// It also bounds each write, since amqp091 holds its locks while it writes: a peer that does not read
// would otherwise hang the connection for ever.
type corked struct {
	net.Conn
	timeout time.Duration

	mu   sync.Mutex
	hold bool
	buf  []byte
	err  error // of a write whose caller was gone
}

// Write implements [net.Conn].
func (c *corked) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	if c.hold && len(c.buf)+len(b) <= corkSize {
		c.buf = append(c.buf, b...)
		return len(b), nil
	}
	if err := c.flush(); err != nil {
		return 0, err
	}
	if c.hold && len(b) < corkSize/2 {
		c.buf = append(c.buf, b...)
		return len(b), nil
	}
	return c.write(b)
}

// cork holds writes back until uncork. Only one goroutine may use the two.
func (c *corked) cork() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hold = true
}

// uncork writes what was held back. If that fails the connection is cut.
func (c *corked) uncork() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hold = false
	_ = c.flush() // kept in c.err; whoever reads the connection sees its end
}

func (c *corked) flush() error {
	if c.err != nil || len(c.buf) == 0 {
		return c.err
	}
	_, c.err = c.write(c.buf)
	c.buf = c.buf[:0]
	if c.err != nil {
		_ = c.Close()
	}
	return c.err
}

func (c *corked) write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}
