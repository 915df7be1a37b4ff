package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// Keys of log attributes.
const (
	keyAddress = "address"
	keyError   = "error"
	keyPurpose = "purpose"
	keyQueue   = "queue"
	keyReason  = "reason"
	keyTook    = "took"
)

// link keeps a connection up: it dials again, with backoff and for ever, whenever it is lost.
type link struct {
	dialer *dialer
	log    *slog.Logger

	want   sync.Once
	wanted chan struct{} // closed when the connection is first needed

	mu      sync.Mutex
	conn    *conn         // nil while there is none
	err     error         // why there is none
	away    time.Time     // since when one that is wanted is missing; zero: it is there
	changed chan struct{} // closed and replaced when conn, err or conn's blocking changes
}

func newLink(d *dialer, log *slog.Logger, purpose string) *link {
	return &link{
		dialer:  d,
		log:     log.With(keyPurpose, purpose, keyAddress, d.address),
		wanted:  make(chan struct{}),
		changed: make(chan struct{}),
	}
}

// run holds the connection until ctx ends. Without a first one it dials when somebody awaits it.
func (l *link) run(ctx context.Context, first *conn) {
	defer l.set(nil, ErrClosed)
	c := first
	if c == nil {
		select {
		case <-l.wanted:
		case <-ctx.Done():
			return
		}
	}
	for down := (time.Time{}); ; down = time.Now() {
		if c == nil {
			if c = l.redial(ctx, down); c == nil {
				return
			}
		}
		l.set(c, nil)
		err := l.watch(ctx, c)
		l.set(nil, err)
		if err == nil {
			c.end()
			return
		}
		c.cut() // ends a write that holds amqp091's locks
		c = nil
		l.log.Warn("rabbitmq: connection lost, dialling again", keyError, err)
	}
}

// redial connects again, or for the first time if down is zero. It returns nil only when ctx has ended.
func (l *link) redial(ctx context.Context, down time.Time) *conn {
	for retry := (backoff{}); ; {
		c, err := l.dialer.dial(ctx)
		if err == nil {
			if !down.IsZero() {
				l.log.Info("rabbitmq: connected again", keyTook, time.Since(down))
			}
			return c
		}
		if down.IsZero() {
			down = time.Now()
			l.log.Warn("rabbitmq: not connected, dialling again", keyError, err)
		}
		l.set(nil, err)
		if !retry.pause(ctx) {
			return nil
		}
	}
}

// watch returns why the connection was lost, or nil when ctx has ended.
func (l *link) watch(ctx context.Context, c *conn) error {
	blockings := c.blockings
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-c.lost:
			if err == nil {
				return fmt.Errorf("connection to %s was closed", l.dialer.address)
			}
			return fmt.Errorf("connection to %s: %w", l.dialer.address, err)
		case b, ok := <-blockings:
			if !ok {
				blockings = nil // the connection is going, lost will tell
				continue
			}
			c.blocked.Store(b.Active)
			l.broadcast()
			if b.Active {
				l.log.Warn("rabbitmq: publishing is blocked by the server", keyReason, b.Reason)
			} else {
				l.log.Info("rabbitmq: publishing is possible again")
			}
		}
	}
}

// await returns the connection; it waits for one until ctx ends or run has ended.
func (l *link) await(ctx context.Context) (*conn, error) {
	l.want.Do(func() { close(l.wanted) })
	for {
		c, changed, err := l.state()
		if c != nil || errors.Is(err, ErrClosed) {
			return c, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			switch {
			case err == nil:
				err = fmt.Errorf("not yet connected to %s: %w", l.dialer.address, ctx.Err())
			case errors.Is(ctx.Err(), context.Canceled): // else what is wrong says more
				err = fmt.Errorf("%w: %w", ctx.Err(), err)
			}
			return nil, err
		}
	}
}

func (l *link) state() (c *conn, changed <-chan struct{}, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conn, l.changed, l.err
}

func (l *link) awaySince() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.away
}

func (l *link) trouble() error {
	_, _, err := l.state()
	return err
}

func (l *link) set(c *conn, err error) {
	l.mu.Lock()
	l.conn, l.err = c, err
	switch {
	case c != nil:
		l.away = time.Time{}
	case l.away.IsZero():
		l.away = time.Now()
	}
	l.mu.Unlock()
	l.broadcast()
}

func (l *link) broadcast() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.changed)
	l.changed = make(chan struct{})
}

// Backoff of everything that is tried again for ever.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
)

// backoff is the zero value of a series of growing pauses with full jitter above half.
type backoff struct{ tries int }

// pause waits; it returns false when ctx ended.
func (b *backoff) pause(ctx context.Context) bool {
	limit := min(firstPause<<min(b.tries, 10), lastPause)
	b.tries++
	timer := time.NewTimer(limit/2 + rand.N(limit/2)) //nolint:gosec // jitter is no secret
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
