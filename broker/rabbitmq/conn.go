package rabbitmq

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// closeTimeout bounds the closing handshake of a connection that is given back in good order.
const closeTimeout = 2 * time.Second

// dialer is what is needed to connect.
type dialer struct {
	urls         []string // of a cluster's hosts
	address      string   // for people: no password, no query
	name         string
	tls          *tls.Config
	heartbeat    time.Duration
	last         atomic.Int32  // index of the host that worked last
	timeout      time.Duration // of connecting
	writeTimeout time.Duration
}

// conn is one AMQP connection. Its own state is fed by amqp091's notifications and never asks the
// connection anything that could race with its end.
type conn struct {
	*amqp.Connection
	sock      *corked
	lost      chan *amqp.Error
	blockings chan amqp.Blocking
	blocked   atomic.Bool // RabbitMQ does not read from this connection for now
}

// dial tries each host once, first the one that worked last.
func (d *dialer) dial(ctx context.Context) (*conn, error) {
	first := int(d.last.Load())
	var faults []error
	for i := range d.urls {
		n := (first + i) % len(d.urls)
		c, err := d.dialHost(ctx, d.urls[n])
		if err == nil {
			d.last.Store(int32(n)) //nolint:gosec // an index of a few hosts
			return c, nil
		}
		faults = append(faults, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("connect to %s: %w", d.address, errors.Join(faults...))
}

func (d *dialer) dialHost(ctx context.Context, url string) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	properties := amqp.NewConnectionProperties()
	properties.SetClientConnectionName(d.name)
	c := &conn{}
	var err error
	var stop func() bool // ends the limit that ctx sets to the handshakes
	c.Connection, err = amqp.DialConfig(url, amqp.Config{
		Properties:      properties,
		Heartbeat:       d.heartbeat,
		TLSClientConfig: d.tls.Clone(),
		Dial: func(network, addr string) (net.Conn, error) {
			var dialer net.Dialer
			raw, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			c.sock = &corked{Conn: raw, timeout: d.writeTimeout}
			stop = context.AfterFunc(ctx, c.cut)
			return c.sock, nil
		},
	})
	if stop != nil && !stop() { // what amqp091 makes of our cutting it off is not the server's word
		c.cut()
		return nil, fmt.Errorf("no answer: %w", ctx.Err())
	}
	if err != nil {
		if c.sock != nil {
			c.cut()
		}
		return nil, withRemedy(url, err)
	}
	c.lost = c.NotifyClose(make(chan *amqp.Error, 1))
	c.blockings = c.NotifyBlocked(make(chan amqp.Blocking, 8))
	return c, nil
}

// within runs fn, which waits for an answer of the server. amqp091 waits without limit, so after the
// timeout the connection is cut, which ends fn with an error.
func (c *conn) within(timeout time.Duration, fn func() error) error {
	timer := time.AfterFunc(timeout, c.cut)
	err := fn()
	if !timer.Stop() && err != nil {
		return fmt.Errorf("no answer within %v: %w", timeout, err)
	}
	return err
}

// cut ends the connection without the server's help. Calls that are under way return with an error.
func (c *conn) cut() { _ = c.sock.Close() }

// end closes the connection in good order if that is still possible.
func (c *conn) end() {
	// amqp091's own CloseDeadline does not hold: each heartbeat of the server moves its deadline.
	_ = c.within(closeTimeout, c.Close) // closed already, or gone: as good
	c.cut()
}
