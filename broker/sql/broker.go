package sql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/lib/pq"
)

// maxConnections bounds the pool: one for storing, one for upkeep, and up to three for each
// subscription, which take turns when there are many.
const maxConnections = 10

// maxConnectionAge lets go of a server that has become another one's standby and only reads.
const maxConnectionAge = 10 * time.Minute

// Broker stores messages in PostgreSQL and reads them from there. It satisfies Watermill's
// Publisher, Subscriber and SubscribeInitializer. Make one with [Open]; use it from any number of
// goroutines.
type Broker struct {
	cfg Config
	log *slog.Logger
	db  *sql.DB
	sql *queries
	out *outgoing

	closing chan struct{}      // closed when Close begins
	cancel  context.CancelFunc // ends upkeep
	running sync.WaitGroup     // subscriptions
	keeping sync.WaitGroup     // storing and upkeep

	renewing sync.Mutex // held while a lease is renewed, and while a consumer is taken off: not to be entered again

	making chan struct{} // holds a token while a queue is deleted, or looked after: not to be made again

	mu       sync.Mutex
	closed   bool
	ended    chan struct{}                  // closed when Close is done
	bindings map[string]map[string]struct{} // topics by queue, made again if somebody deletes the queue
	subs     map[*subscription]struct{}
	holders  map[int64]sql.NullString // this Broker's consumers and their queues
}

// Open connects to the database that the URL names and makes the broker's tables if they are
// missing. It blocks until that is done, until ctx ends or for ConfirmTimeout, and fails if the
// database cannot be reached; later losses of the connection are mended by the Broker.
//
//	postgres://user:password@host:5432/database?sslmode=verify-full
//
// The parameters schema, prefetch, window, max_size, poll, lease and confirm_timeout take precedence
// over the fields of cfg; all others are lib/pq's. The connection has to be a session of its own:
// PgBouncer's transaction pooling does not fit. A role that may not make the tables gets [ErrTables]
// with the SQL for one who may.
//
// Errors never contain the password.
func Open(ctx context.Context, url string, cfg Config) (*Broker, error) {
	dsn, address, err := parse(url, &cfg)
	if err != nil {
		return nil, &configError{err}
	}
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, &configError{err}
	}
	connector, err := pq.NewConnector(dsn)
	if err != nil {
		return nil, &configError{fmt.Errorf("sql: url: a parameter cannot be used with %s; see lib/pq's documentation", address)}
	}
	connector.Dialer(dialer{cfg.ConfirmTimeout + time.Second})
	b := &Broker{
		cfg: cfg, log: cfg.Logger, db: sql.OpenDB(sessions{connector}), sql: newQueries(cfg.Schema),
		closing: make(chan struct{}), ended: make(chan struct{}),
		making: make(chan struct{}, 1), bindings: map[string]map[string]struct{}{}, subs: map[*subscription]struct{}{},
		holders: map[int64]sql.NullString{},
	}
	b.db.SetMaxOpenConns(maxConnections)
	b.db.SetMaxIdleConns(maxConnections)
	b.db.SetConnMaxIdleTime(time.Minute)
	b.db.SetConnMaxLifetime(maxConnectionAge)
	if err := b.prepare(ctx); err != nil {
		_ = b.db.Close()
		switch {
		case errors.Is(err, ErrTables):
			return nil, err
		case hasCode(err, undefinedParameter):
			return nil, &configError{fmt.Errorf("sql: url: neither this broker nor the server at %s knows a parameter: %w", address, err)}
		}
		return nil, outage("connect to "+address, err)
	}
	b.out = newOutgoing(b)
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	b.cancel = cancel
	b.keeping.Go(func() { b.out.run(context.WithoutCancel(ctx)) })
	b.keeping.Go(func() { b.upkeep(running) })
	return b, nil
}

// Bind makes the queue if it does not exist and binds it to the topics, keeping the bindings it has.
// It blocks for ConfirmTimeout at most. A queue that somebody deletes while this Broker subscribes to
// it is made again.
func (b *Broker) Bind(ctx context.Context, queue string, topics ...string) error {
	if err := checkName("queue", queue); err != nil {
		return err
	}
	for _, topic := range topics {
		if err := checkName("topic", topic); err != nil {
			return fmt.Errorf("%w (queue %.80q)", err, queue)
		}
	}
	if b.isClosing() {
		return ErrClosed
	}
	if err := b.bind(ctx, queue, topics); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bindings[queue] == nil {
		b.bindings[queue] = map[string]struct{}{}
	}
	for _, topic := range topics {
		b.bindings[queue][topic] = struct{}{}
	}
	return nil
}

func (b *Broker) bind(ctx context.Context, queue string, topics []string) error {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.ConfirmTimeout)
	defer cancel()
	topics = slices.Sorted(slices.Values(topics)) // two who bind the same cannot wait for each other
	err := b.inTx(ctx, func(tx *sql.Tx) error {
		var id int64
		if err := tx.QueryRowContext(ctx, b.sql.addQueue, queue).Scan(&id); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, b.sql.addBindings, id, pq.Array(topics))
		return err
	})
	if err != nil {
		return outage(fmt.Sprintf("bind queue %q", queue), err)
	}
	return nil
}

// DeleteQueue deletes the queue, its bindings and what is in it. A queue that does not exist is no
// error. It waits for the messages being stored at that moment, and blocks for ConfirmTimeout at most.
func (b *Broker) DeleteQueue(ctx context.Context, queue string) error {
	if b.isClosing() {
		return ErrClosed
	}
	ctx, cancel := context.WithTimeout(ctx, b.cfg.ConfirmTimeout)
	defer cancel()
	if !take(ctx, b.making) {
		return outage(fmt.Sprintf("delete queue %q", queue), because(ctx, ctx.Err()))
	}
	defer func() { <-b.making }()
	b.mu.Lock()
	delete(b.bindings, queue)
	b.mu.Unlock()
	err := b.inTx(ctx, func(tx *sql.Tx) error {
		var id int64
		// First the queue, then its bindings, as one who binds it does.
		if err := tx.QueryRowContext(ctx, b.sql.lockQueue, queue).Scan(&id); errors.Is(err, sql.ErrNoRows) {
			return nil
		} else if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, b.sql.lockBindings); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, b.sql.emptyQueue, id); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, b.sql.deleteQueue, id)
		return err
	})
	if err != nil {
		return outage(fmt.Sprintf("delete queue %q", queue), err)
	}
	return nil
}

// SubscribeInitialize makes the queue as [Broker.Subscribe] would.
func (b *Broker) SubscribeInitialize(topic string) error { return b.ready(context.Background(), topic) }

// ready makes a queue and, if this Broker has bound it to nothing, binds it to its own name.
func (b *Broker) ready(ctx context.Context, queue string) error {
	b.mu.Lock()
	topics := slices.Sorted(maps.Keys(b.bindings[queue]))
	b.mu.Unlock()
	if len(topics) == 0 {
		topics = []string{queue}
	}
	return b.Bind(ctx, queue, topics...)
}

// Bound reports whether a queue is bound to the topic. It blocks for ConfirmTimeout at most.
func (b *Broker) Bound(ctx context.Context, topic string) (is bool, err error) {
	if b.isClosing() {
		return false, ErrClosed
	}
	if err := b.row(ctx, b.sql.bound, []any{topic}, &is); err != nil {
		return false, outage("read the bindings", err)
	}
	return is, nil
}

// Close ends all subscriptions and gives their unacknowledged messages back to the queues, fails
// what is not stored yet with [ErrClosed], and closes the connections. It blocks until all of that is
// done; while the database does not answer, that takes up to a few times ConfirmTimeout, and the
// messages come back when their lease is over. Further calls wait for the first and return nil.
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
	b.running.Wait()
	b.cancel()
	b.keeping.Wait()
	if err := b.db.Close(); err != nil {
		return outage("close", err)
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

// row reads the one row of a query, for ConfirmTimeout at most.
func (b *Broker) row(ctx context.Context, query string, args []any, into ...any) error {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.ConfirmTimeout)
	defer cancel()
	return because(ctx, b.db.QueryRowContext(ctx, query, args...).Scan(into...))
}

// exec runs a statement for ConfirmTimeout at most.
func (b *Broker) exec(ctx context.Context, query string, args ...any) (affected int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.ConfirmTimeout)
	defer cancel()
	result, err := b.db.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, because(ctx, err)
	}
	return result.RowsAffected()
}
