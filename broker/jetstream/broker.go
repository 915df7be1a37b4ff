package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Broker publishes to and subscribes from one JetStream stream. It satisfies
// Watermill's Publisher, Subscriber and SubscribeInitializer. Make one with
// [Open]; use it from any number of goroutines.
type Broker struct {
	cfg    Config
	log    *slog.Logger
	target target
	names  subjects
	server *embedded // nil: the server is elsewhere

	closing  chan struct{}      // closed when Close begins
	released chan struct{}      // closed when every subscription has given back what it held
	cancel   context.CancelFunc // ends keepConnected and the subscriptions
	keeping  sync.WaitGroup     // keepConnected
	running  sync.WaitGroup     // subscriptions
	watching sync.WaitGroup     // messages in users' hands

	mu       sync.Mutex
	cur      *session            // nil: not connected
	changed  chan struct{}       // closed and replaced whenever cur changes
	lastErr  error               // why there is no connection
	away     time.Time           // since when there is none; zero: there is one
	closed   bool                // Close has begun
	ended    chan struct{}       // closed when Close is done
	bindings map[string][]string // topics by queue, declared anew on each connection
	// givenBack is what Browse gave back last, by queue, if the server is embedded.
	givenBack map[string][]string
	unwaited  int  // publish calls whose wait has not returned
	inDoubt   bool // one of them lost a message: send nothing until all have returned
}

// Open connects to the server that the URL names and creates the stream if it
// is missing. It blocks until that is done, until ctx ends or, for each
// request, until ConfirmTimeout, and fails if the server cannot be reached;
// later losses of the connection are mended by the Broker.
//
//	nats://user:password@host:4222   also a token alone; several as one:4222,two:4222; tls:// for TLS
//	  ?creds=/path/user.creds        credentials file, or ?nkey=FILE with the seed of an nkey
//	  ?cacertfile=FILE               trust these authorities, not the system's; TLS
//	  ?certfile=FILE&keyfile=FILE    the client's certificate; TLS
//	  ?server_name_indication=NAME   to be found in the server's certificate, not the host; TLS
//	jetstream+embedded:///path       a server in this process with its files under path, no socket
//	  ?sync=always|DURATION          fsync before each confirmation, or that often (default 1s)
//
// The parameters stream, replicas, prefetch, window, confirm_timeout and
// ack_wait take precedence over the fields of cfg.
//
// Of several servers any one is taken, now and whenever a connection is lost; also one that the
// cluster has told of. Files are read anew for each connection.
//
// Errors never contain the URL.
func Open(ctx context.Context, url string, cfg Config) (*Broker, error) {
	t, err := parse(url, &cfg)
	if err != nil {
		return nil, &configError{err}
	}
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, &configError{err}
	}
	b := &Broker{
		cfg:      cfg,
		log:      cfg.Logger,
		target:   t,
		names:    subjectsOf(cfg.Stream),
		closing:  make(chan struct{}),
		released: make(chan struct{}),
		changed:  make(chan struct{}),
		ended:    make(chan struct{}),
		bindings: map[string][]string{},

		givenBack: map[string][]string{},
	}
	if t.dir != "" {
		if b.server, err = startEmbedded(ctx, t, cfg.Logger); err != nil {
			return nil, err
		}
	}
	s, err := b.connect(ctx, nil)
	if err != nil {
		if b.server != nil {
			b.server.stop()
		}
		return nil, err
	}
	b.install(s)
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	b.cancel = cancel
	b.keeping.Go(func() { b.keepConnected(running, s) })
	return b, nil
}

// Close ends all subscriptions and gives their unacknowledged messages back to
// the queues, fails what is still unconfirmed with [ErrClosed], closes the
// connection and stops the embedded server. It blocks until all of that is
// done; without a server that answers it takes up to ConfirmTimeout. Further
// calls wait for the first and return nil.
func (b *Broker) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		<-b.ended
		return nil
	}
	b.closed = true
	b.mu.Unlock()
	defer close(b.ended)

	close(b.closing)
	b.cancel()
	b.running.Wait()
	close(b.released)
	b.watching.Wait()
	b.keeping.Wait()
	if s := b.current(); s != nil {
		b.giveBackAgain(s)
		s.close(b.cfg.ConfirmTimeout, ErrClosed)
	}
	if b.server != nil {
		b.server.stop()
	}
	return nil
}

func (b *Broker) isClosing() bool {
	select {
	case <-b.closing:
		return true
	default:
		return false
	}
}

// keepConnected replaces the session whenever it has ended.
func (b *Broker) keepConnected(ctx context.Context, s *session) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.done:
		}
		b.lost(s)
		if s = b.reconnect(ctx, s); s == nil {
			return
		}
		b.install(s)
		b.log.Info("jetstream: connected again")
	}
}

// Bounds of the pause between attempts to connect.
const (
	firstPause = 100 * time.Millisecond
	longPause  = 5 * time.Second
)

// reconnect returns a new session, or nil when ctx has ended.
func (b *Broker) reconnect(ctx context.Context, old *session) *session {
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		s, err := b.connect(ctx, old)
		if err == nil {
			return s
		}
		if ctx.Err() != nil {
			return nil
		}
		b.mu.Lock()
		b.lastErr = err
		b.mu.Unlock()
		b.log.Debug("jetstream: connect, trying again", "err", err, "pause", pause)
		if !sleep(ctx, pause/2+rand.N(pause/2)) { //nolint:gosec // spreads load, hides nothing
			return nil
		}
	}
}

// sleep reports whether the time has passed rather than ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// install makes a session the one that is used.
func (b *Broker) install(s *session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cur, b.lastErr, b.away = s, nil, time.Time{}
	b.announce()
}

// lost takes a session that has ended out of use. Messages of calls that are
// not waited for yet may be lost with it.
func (b *Broker) lost(s *session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cur, b.lastErr, b.away = nil, s.cause(), time.Now()
	b.inDoubt = b.inDoubt || b.unwaited > 0
	b.announce()
	b.log.Warn("jetstream: connection lost", "err", b.lastErr)
}

// AwaySince returns since when there has been no connection to the server, or the
// zero time while there is one.
func (b *Broker) AwaySince() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.away
}

// announce wakes those who wait for a session. Callers hold mu.
func (b *Broker) announce() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// current returns the session, nil when there is none.
func (b *Broker) current() *session {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cur
}

// await returns a session that was alive just now, waiting for one until ctx ends.
func (b *Broker) await(ctx context.Context) (*session, error) {
	for {
		b.mu.Lock()
		s, changed, closed, cause := b.cur, b.changed, b.closed, b.lastErr
		b.mu.Unlock()
		if closed {
			return nil, ErrClosed
		}
		if s != nil && s.alive() {
			return s, nil
		}
		select {
		case <-ctx.Done():
			switch why := context.Cause(ctx); {
			case cause == nil:
				cause = why
			case errors.Is(ctx.Err(), context.Canceled): // else what is wrong says more
				cause = fmt.Errorf("%w: %w", why, cause)
			}
			return nil, fmt.Errorf("%w: %w", ErrNotConnected, cause)
		case <-b.closing:
			return nil, ErrClosed
		case <-changed:
		}
	}
}

// remember adds to the bindings that every new connection declares.
func (b *Broker) remember(queue string, topics []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bindings[queue] = union(b.bindings[queue], topics)
}

// bound returns the topics that this Broker has bound the queue to.
func (b *Broker) bound(queue string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.bindings[queue])
}

// union appends to have what it lacks of more, each once.
func union(have, more []string) []string {
	for _, m := range more {
		if !slices.Contains(have, m) {
			have = append(have, m)
		}
	}
	return have
}
