package jetstream

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// pingInterval finds a dead connection after two unanswered pings.
const pingInterval = 10 * time.Second

// session is one connection from its making to its end. It is never repaired:
// what was sent on it and not confirmed at its end is in doubt as a whole, and
// what is sent on the next one comes after it.
type session struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	stream jetstream.Stream
	done   chan struct{} // closed when the connection has ended
	routes atomic.Pointer[routes]
	acks   acks

	once sync.Once
	err  error // set before done is closed
}

// connect makes a session and declares everything on it. old, if not nil,
// knows more servers of the cluster than the URL.
func (b *Broker) connect(ctx context.Context, old *session) (*session, error) {
	s := &session{done: make(chan struct{})}
	ended := func() bool { return true } // ends the limit that ctx sets to the handshakes
	opts, err := b.options(s, func(network, address string) (net.Conn, error) {
		ended() // that of the server before
		limited, cancel := context.WithTimeout(ctx, nats.DefaultTimeout)
		defer cancel()
		conn, err := (&net.Dialer{}).DialContext(limited, network, address)
		if err == nil {
			ended = context.AfterFunc(ctx, func() { _ = conn.Close() })
		}
		return conn, err
	})
	if err != nil {
		return nil, fmt.Errorf("jetstream: connect: %w", err)
	}
	nc, err := nats.Connect(b.servers(old), opts...)
	if !ended() && err == nil {
		nc.Close()
		err = nats.ErrConnectionClosed
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, fmt.Errorf("jetstream: connect to %s: %w: %w", b.target.shown(), context.Cause(ctx), err)
	case err != nil:
		return nil, fmt.Errorf("jetstream: connect to %s: %w", b.target.shown(), withRemedy(err))
	}
	s.nc = nc
	if err := b.prepare(ctx, s); err != nil {
		s.close(0, ErrNotConnected)
		return nil, err
	}
	return s, nil
}

func (b *Broker) prepare(ctx context.Context, s *session) error {
	var err error
	if s.js, err = jetstream.New(s.nc, jetstream.WithDefaultTimeout(b.cfg.ConfirmTimeout)); err != nil {
		return fmt.Errorf("jetstream: connect: %w", err)
	}
	if err := s.acks.open(s.nc, b.cfg.Window, b.doubt); err != nil {
		return fmt.Errorf("jetstream: connect: %w", err)
	}
	return b.declare(ctx, s)
}

func (b *Broker) servers(old *session) string {
	servers := b.target.servers
	if old != nil && b.server == nil {
		for _, s := range old.nc.DiscoveredServers() {
			servers += "," + s
		}
	}
	return servers
}

func (b *Broker) options(s *session, dial dialer) ([]nats.Option, error) {
	opts, err := b.target.security.options()
	if err != nil {
		return nil, err
	}
	if b.server != nil {
		opts = append(opts, nats.InProcessServer(b.server.srv))
	} else {
		opts = append(opts, nats.SetCustomDialer(dial))
	}
	opts = append(opts, nats.Timeout(b.cfg.ConfirmTimeout)) // of the handshakes with a server that is there
	opts = append(opts, b.cfg.Options...)
	return append(opts,
		nats.Name("lockstep"),
		nats.NoReconnect(),
		nats.PingInterval(pingInterval),
		nats.FlusherTimeout(b.cfg.ConfirmTimeout),
		nats.ClosedHandler(func(nc *nats.Conn) { s.end(nc.LastError()) }),
		nats.DisconnectErrHandler(nil),
		nats.ErrorHandler(saidOnce(func(err error) { b.log.Warn("jetstream: connection", "err", err) })),
	), nil
}

// saidOnce leaves out what was said last: a connection that breaks fails many writes
// in the same way. The client calls its handlers one at a time.
func saidOnce(say func(error)) nats.ErrHandler {
	last := ""
	return func(_ *nats.Conn, _ *nats.Subscription, err error) {
		if text := err.Error(); text != last {
			last = text
			say(err)
		}
	}
}

// dialer is a nats.CustomDialer.
type dialer func(network, address string) (net.Conn, error)

// Dial dials.
func (d dialer) Dial(network, address string) (net.Conn, error) { return d(network, address) }

// end marks the session as over and fails what it has not confirmed. The first
// cause counts.
func (s *session) end(cause error) {
	s.once.Do(func() {
		if cause == nil {
			cause = nats.ErrConnectionClosed
		}
		s.err = cause
		close(s.done)
		s.acks.fail(fmt.Errorf("%w: %w", ErrNotConnected, cause))
	})
}

// close ends the connection after what it has buffered is sent, for which it
// takes the given time at most.
func (s *session) close(flush time.Duration, cause error) {
	if flush > 0 && s.alive() {
		_ = s.nc.FlushTimeout(flush) // what cannot be sent now is delivered again
	}
	s.acks.fail(cause)
	s.nc.Close()
	<-s.done
}

func (s *session) alive() bool {
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// cause returns why a session has ended.
func (s *session) cause() error {
	<-s.done
	return s.err
}

// tell sends a body to a subject without an answer. If that fails, the session
// is over and what was told is repeated by the server's timers.
func (s *session) tell(subject, body string) {
	_ = s.nc.Publish(subject, []byte(body))
}

// isAck reports whether a reply subject is that of a delivery.
func isAck(reply string) bool { return strings.HasPrefix(reply, "$JS.ACK.") }
