package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/lockstep-go/lockstep/event"
)

// Broker publishes to one exchange and consumes from its queues. [Open] makes one.
type Broker struct {
	cfg       Config
	topology  *topology
	publisher *publisher
	consuming *link // and declaring: RabbitMQ never blocks a connection that does not publish

	closing chan struct{} // closed when Close begins
	closed  chan struct{} // closed when everything has ended

	stopPublishing, stopLinks context.CancelFunc

	mu            sync.Mutex // guards subscriptions, and their start against Close
	subscriptions map[*subscription]context.CancelFunc

	workers sync.WaitGroup
	links   sync.WaitGroup
	classic sync.Once // warns of classic queues in a cluster
}

var (
	_ message.Publisher            = (*Broker)(nil)
	_ message.Subscriber           = (*Broker)(nil)
	_ message.SubscribeInitializer = (*Broker)(nil)
)

// Open connects to the server at an amqp or amqps URL and declares the exchange. The URL may name several
// hosts of a cluster, as in amqp://user:password@one,two:5673/; they are tried in turn, from the one that
// worked last, each for at most DialTimeout, now and whenever a connection is lost. It waits for the
// server until ctx ends, at most for DialTimeout and then ConfirmTimeout; a server that cannot be
// reached is an error that names its address without the password. All faults of URL and
// configuration are reported at once. The broker lives until Close, not until ctx ends.
func Open(ctx context.Context, url string, cfg Config) (*Broker, error) {
	dials, address, cfg, err := parseURLs(url, cfg)
	cfg = cfg.withDefaults()
	if err := errors.Join(err, cfg.validate()); err != nil {
		return nil, &configError{err}
	}
	b := newBroker(cfg, func(purpose string) *link {
		return newLink(&dialer{
			urls: dials, address: address, name: cfg.Name + " " + purpose, tls: cfg.TLS, heartbeat: cfg.Heartbeat,
			timeout: cfg.DialTimeout, writeTimeout: cfg.ConfirmTimeout,
		}, cfg.Logger, purpose)
	})
	first, err := b.publisher.link.dialer.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("rabbitmq: open: %w", err)
	}
	if err := b.declareOn(first, b.topology.declareAll); err != nil {
		first.end()
		return nil, fmt.Errorf("rabbitmq: open %s: %w", address, err)
	}
	b.start(context.WithoutCancel(ctx), first)
	return b, nil
}

func newBroker(cfg Config, link func(purpose string) *link) *Broker {
	b := &Broker{
		cfg:       cfg,
		topology:  newTopology(cfg.Exchange, cfg.QueueType),
		consuming: link("consuming"),
		closing:   make(chan struct{}),
		closed:    make(chan struct{}),

		subscriptions: make(map[*subscription]context.CancelFunc),
	}
	b.publisher = &publisher{
		link:     link("publishing"),
		topology: b.topology,
		log:      cfg.Logger,
		timeout:  cfg.ConfirmTimeout,
		window:   cfg.Window,
		doubts:   newDoubts(cfg.Exchange),
		queue:    make(chan *batch),
		closing:  b.closing,
	}
	return b
}

// start runs what Close ends: first the publisher, then the links it stands on.
func (b *Broker) start(ctx context.Context, first *conn) {
	var publishing, linked context.Context
	publishing, b.stopPublishing = context.WithCancel(ctx)
	linked, b.stopLinks = context.WithCancel(ctx)
	b.workers.Go(func() { b.publisher.run(publishing) })
	b.links.Go(func() { b.publisher.link.run(linked, first) })
	b.links.Go(func() { b.consuming.run(linked, nil) })
}

// AwaySince returns since when there has been no connection to receive by, or the
// zero time while there is one or none was wanted yet.
func (b *Broker) AwaySince() time.Time { return b.consuming.awaySince() }

// Close ends all subscriptions and closes the connections. Messages that are handed over to the server
// and not confirmed get two more seconds for it. Close takes no longer than a few seconds, even if the
// server hangs. Later calls, also of other methods, see a closed
// broker: Close then waits for the first one and returns nil.
func (b *Broker) Close() error {
	b.mu.Lock()
	first := !b.isClosing()
	if first {
		close(b.closing)
		for _, cancel := range b.subscriptions {
			cancel()
		}
	}
	b.mu.Unlock()
	if first {
		b.stopPublishing()
		late := time.AfterFunc(2*closeTimeout, b.stopLinks) // somebody waits for a server that hangs
		b.workers.Wait()
		late.Stop()
		b.stopLinks()
		b.links.Wait()
		close(b.closed)
	}
	<-b.closed
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

// Publish sends messages on a topic and returns when all are confirmed, or after ConfirmTimeout. The
// error joins those of the single messages. As with Watermill's other brokers, a message to all (on a
// broadcast topic) for which no queue is bound is published all the same and gone, unless one was bound
// before; use [Broker.PublishAsync] to know. On a direct topic (see [event.IsDirect]) it is an error:
// what is meant for one queue, a dead letter for one, must not get lost silently.
func (b *Broker) Publish(topic string, msgs ...*message.Message) error {
	ctx := context.Background()
	var errs []error
	for _, err := range b.PublishAsync(ctx, slices.Repeat([]string{topic}, len(msgs)), msgs)(ctx) {
		if err == nil || event.Unwanted(topic, err) {
			continue
		}
		if len(errs) == 0 || !errors.Is(errs[len(errs)-1], err) { // an outage is one error for many messages
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// PublishAsync sends each message on the topic of the same index, in order, and returns without waiting
// for confirms. Two calls made one after the other reach the broker in that order. It blocks while
// earlier messages fill the window or the server blocks publishing, at most for ConfirmTimeout.
//
// wait must be called once. It blocks until every message is confirmed, refused or given up: when ctx
// ends, or after ConfirmTimeout. It returns nil when all were confirmed, else a slice with an entry for
// each message, nil for the confirmed ones. See [RefusedError] for what the errors tell.
//
// Messages must not be changed until then.
func (b *Broker) PublishAsync(
	ctx context.Context, topics []string, msgs []*message.Message,
) (wait func(ctx context.Context) []error) {
	return b.publishAsync(ctx, b.cfg.Exchange, topics, msgs)
}

func (b *Broker) publishAsync(
	ctx context.Context, exchange string, topics []string, msgs []*message.Message,
) func(context.Context) []error {
	if len(topics) != len(msgs) {
		err := fmt.Errorf("rabbitmq: publish: %d topics for %d messages", len(topics), len(msgs))
		return func(context.Context) []error { return slices.Repeat([]error{err}, max(1, len(msgs))) }
	}
	batch := newBatch(exchange, topics, msgs, b.cfg.ConfirmTimeout)
	if len(batch.wanted()) > 0 {
		b.publisher.publish(ctx, batch)
	}
	return func(ctx context.Context) []error {
		return batch.result(ctx, b.cfg.ConfirmTimeout, b.publisher.giveUp)
	}
}

// Bind declares the durable queue and binds it to the topics, if it is not so already. The queue and
// its bindings are remembered and declared again after each loss of the connection. Bindings are never
// removed. A queue that exists with other properties is an error. A classic queue in a cluster (a URL with
// several hosts) is logged, see Clusters above.
func (b *Broker) Bind(ctx context.Context, queue string, topics ...string) error {
	if queue == "" || len(queue) > maxShort {
		return fmt.Errorf("rabbitmq: bind: queue name %.40q is not 1 to %d bytes long", queue, maxShort)
	}
	for _, topic := range topics {
		if len(topic) > maxShort {
			return fmt.Errorf("rabbitmq: bind queue %s: topic %.40q… is longer than %d bytes", queue, topic, maxShort)
		}
	}
	bindings := b.topology.queue(queue, topics)
	if len(topics) == 0 {
		only := wamqp.BuildTopologyParams{QueueName: queue}
		bindings = []binding{{only, b.topology.config}}
	}
	if err := b.declare(ctx, bindings); err != nil {
		return fmt.Errorf("rabbitmq: %w", err)
	}
	if b.cfg.QueueType == queueClassic && len(b.consuming.dialer.urls) > 1 {
		b.classic.Do(func() {
			b.cfg.Logger.Warn("rabbitmq: a classic queue lives on one node, and while that is away RabbitMQ loses what is "+
				"published for it: queue_type=quorum, or a policy that mirrors it", keyQueue, queue)
		})
	}
	return nil
}

// declare declares bindings and remembers them.
func (b *Broker) declare(ctx context.Context, bindings []binding) error {
	if b.isClosing() {
		return ErrClosed
	}
	ctx, cancel := context.WithTimeout(ctx, b.cfg.ConfirmTimeout)
	defer cancel()
	c, err := b.consuming.await(ctx)
	if err != nil {
		return err
	}
	declared, err := b.declareKeeping(c, bindings)
	if err == nil {
		b.topology.remember(declared)
	}
	return err
}

// declareOn runs fn with a channel of its own, since an error closes the channel.
func (b *Broker) declareOn(c *conn, fn func(*amqp.Channel) error) error {
	return c.within(b.cfg.ConfirmTimeout, func() error {
		ch, err := c.Channel()
		if err != nil {
			return fmt.Errorf("open a channel: %w", err)
		}
		return errors.Join(fn(ch), ch.Close())
	})
}
