package jetstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// Bind declares the durable queue and binds it to the topics, keeping the
// bindings it has. It may be repeated, here and by other processes; a new
// connection repeats it by itself. It blocks until the server has answered,
// for ConfirmTimeout at most. A message published on one of the topics after
// Bind has returned reaches the queue.
func (b *Broker) Bind(ctx context.Context, queue string, topics ...string) error {
	if queue == "" {
		return errors.New("jetstream: bind: the queue's name is empty")
	}
	for _, topic := range topics {
		if _, err := b.names.topic(topic); err != nil {
			return fmt.Errorf("jetstream: bind %q: %w", queue, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, b.cfg.ConfirmTimeout)
	defer cancel()
	s, err := b.await(ctx)
	if err != nil {
		return err
	}
	if _, err := b.declareQueue(ctx, s, queue, topics); err != nil {
		return err
	}
	b.remember(queue, topics)
	return nil
}

// declare makes everything that the Broker relies on, at the start of a session.
func (b *Broker) declare(ctx context.Context, s *session) error {
	var err error
	if s.stream, err = b.declareStream(ctx, s); err != nil {
		return err
	}
	if err := b.declareKeeper(ctx, s); err != nil {
		return err
	}
	if err := b.declareAnchor(ctx, s); err != nil {
		return err
	}
	b.mu.Lock()
	queues := make(map[string][]string, len(b.bindings))
	for queue, topics := range b.bindings {
		queues[queue] = slices.Clone(topics)
	}
	b.mu.Unlock()
	for queue, topics := range queues {
		if _, err := b.declareQueue(ctx, s, queue, topics); err != nil {
			return err
		}
	}
	return nil
}

func (b *Broker) declareStream(ctx context.Context, s *session) (jetstream.Stream, error) {
	stream, err := s.js.Stream(ctx, b.cfg.Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if err := checkVersion(s.nc.ConnectedServerVersion()); err != nil {
			return nil, fmt.Errorf("jetstream: server %s: %w", s.nc.ConnectedAddr(), err)
		}
		stream, err = s.js.CreateStream(ctx, b.streamConfig())
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			stream, err = s.js.Stream(ctx, b.cfg.Stream) // another process was faster
		}
	}
	if errors.Is(err, nats.ErrNoResponders) {
		err = fmt.Errorf("%w: does the server run JetStream (nats-server --jetstream), and has its cluster a leader?", err)
	}
	if err != nil {
		return nil, fmt.Errorf("jetstream: stream %q: %w", b.cfg.Stream, err)
	}
	if err := b.checkStream(stream.CachedInfo().Config); err != nil {
		return nil, err
	}
	return stream, nil
}

// checkVersion refuses a server that would make a stream without what it does not know,
// and leave it behind. A version in another form is left to the stream to show.
func checkVersion(version string) error {
	var major, minor int
	if n, _ := fmt.Sscanf(version, "%d.%d", &major, &minor); n < 2 || major > 2 || major == 2 && minor >= 12 {
		return nil
	}
	return fmt.Errorf("it is nats-server %s, and message schedules need 2.12 or later", version)
}

func (b *Broker) streamConfig() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              b.cfg.Stream,
		Description:       "Lockstep: topic exchange",
		Subjects:          []string{b.names.topics + ">", b.names.delays + ">"},
		Retention:         jetstream.InterestPolicy,
		Storage:           jetstream.FileStorage,
		Replicas:          b.cfg.Replicas,
		AllowMsgTTL:       true,
		AllowMsgSchedules: true,
	}
}

// checkStream reports why a stream, made by an operator or an older server,
// could lose messages. What else it has is the operator's business.
func (b *Broker) checkStream(c jetstream.StreamConfig) error {
	var errs []error
	demand := func(ok bool, what string) {
		if !ok {
			errs = append(errs, fmt.Errorf("jetstream: stream %q: %s", c.Name, what))
		}
	}
	for _, subject := range b.streamConfig().Subjects {
		demand(slices.Contains(c.Subjects, subject), fmt.Sprintf("lacks subject %q", subject))
	}
	demand(c.Retention == jetstream.InterestPolicy, "retention is not interest")
	demand(c.Storage == jetstream.FileStorage, "storage is not file")
	demand(c.PersistMode == jetstream.DefaultPersistMode, "confirms before it writes (persist_mode)")
	demand(!c.NoAck, "does not confirm (no_ack)")
	demand(c.MaxMsgs <= 0 && c.MaxBytes <= 0 && c.MaxAge <= 0 && c.MaxMsgsPerSubject <= 0, "limits discard messages (max_msgs, max_bytes, max_age, max_msgs_per_subject)")
	demand(c.AllowMsgTTL, "has no expiry per message (allow_msg_ttl)")
	demand(c.AllowMsgSchedules, "has no message schedules (allow_msg_schedules); they need nats-server 2.12 or later")
	return errors.Join(errs...)
}

// declareKeeper makes the consumer that is never read. Its interest keeps the
// schedules, and the server deletes each when it has published its message.
func (b *Broker) declareKeeper(ctx context.Context, s *session) error {
	_, err := s.stream.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{
		Durable:       keeper,
		Description:   "Lockstep: keeps delayed messages",
		FilterSubject: b.names.delays + ">",
		AckPolicy:     jetstream.AckExplicitPolicy,
		DeliverPolicy: jetstream.DeliverAllPolicy,
		MaxAckPending: -1,
	})
	if err != nil {
		return fmt.Errorf("jetstream: consumer %q: %w", keeper, err)
	}
	return nil
}

// declareAnchor stores a message that nobody takes at the beginning of a cluster's
// stream, once. A server of a cluster that starts drops what stands at the beginning and
// one queue has acknowledged, if it has not got round to the other queues yet
// (nats-server 2.15.2, interestRaiseFirst); as soon as it leads the stream, it is gone
// from all of them. With the anchor at the beginning that is never the case. Also no queue
// begins at 1, with a state of zeros, which the server takes for none.
//
// A stream that has had messages, of a version without anchors, is used all the same while
// a server does not take it: what a queue misses then, it missed before.
func (b *Broker) declareAnchor(ctx context.Context, s *session) error {
	if s.stream.CachedInfo().Config.Replicas <= 1 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, b.cfg.ConfirmTimeout)
	defer cancel()
	err := b.storeAnchor(ctx, s)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("jetstream: stream %q: store its first message: %w", b.cfg.Stream, err)
	if s.stream.CachedInfo().State.LastSeq == 0 || !s.alive() {
		return err
	}
	b.log.Warn("jetstream: until the next connection a server of the cluster that starts may drop messages", "err", err)
	return nil
}

func (b *Broker) storeAnchor(ctx context.Context, s *session) error {
	_, err := s.stream.GetLastMsgForSubject(ctx, b.names.anchor())
	if !errors.Is(err, jetstream.ErrMsgNotFound) {
		return err
	}
	if _, err := s.everywhere(ctx, keeper); err != nil { // else some would not store it
		return err
	}
	_, err = s.js.Publish(ctx, b.names.anchor(), nil, jetstream.WithExpectLastSequencePerSubject(0))
	var refused *jetstream.APIError
	if errors.As(err, &refused) && refused.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
		return nil // another process was faster
	}
	return err
}

// declareQueue makes the queue's consumer or adds what its filters lack, and
// returns it as the server has it.
func (b *Broker) declareQueue(ctx context.Context, s *session, queue string, topics []string) (*jetstream.ConsumerInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.ConfirmTimeout)
	defer cancel()
	var want []string
	for _, topic := range topics {
		subject, err := b.names.topic(topic)
		if err != nil {
			return nil, fmt.Errorf("jetstream: queue %q: %w", queue, err)
		}
		want = union(want, []string{subject})
	}
	info, err := s.consumer(ctx, queue)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		err = b.createQueue(ctx, s, queue, want)
		if err == nil || errors.Is(err, jetstream.ErrConsumerExists) { // another was faster
			info, err = s.everywhere(ctx, durable(queue))
		}
	}
	if err == nil {
		err = checkQueue(info.Config)
	}
	if err == nil && len(lacking(info.Config, want)) > 0 {
		info, err = b.addFilters(ctx, s, queue, want)
	}
	if err != nil {
		return nil, fmt.Errorf("jetstream: queue %q: %w", queue, err)
	}
	return info, nil
}

func (s *session) consumer(ctx context.Context, queue string) (*jetstream.ConsumerInfo, error) {
	return s.named(ctx, durable(queue))
}

func (s *session) named(ctx context.Context, consumer string) (*jetstream.ConsumerInfo, error) {
	c, err := s.stream.Consumer(ctx, consumer)
	if err != nil {
		return nil, err
	}
	return c.CachedInfo(), nil
}

// createQueue makes a queue's consumer. The queue gets what is published after it was
// bound. The place where that begins is given as a number: each server of a cluster would
// take "what is new" to begin where it stands itself, and anew whenever it starts, and
// would drop what is older once other queues have it.
func (b *Broker) createQueue(ctx context.Context, s *session, queue string, filters []string) error {
	info, err := s.stream.Info(ctx)
	if err != nil {
		return err
	}
	cfg := b.queueConfig(queue, filters)
	cfg.OptStartSeq = info.State.LastSeq + 1
	_, err = s.stream.CreateConsumer(ctx, cfg)
	return err
}

// spreadPause is the time between looks at the servers of a cluster.
const spreadPause = 20 * time.Millisecond

// everywhere returns a consumer, new or changed, when all servers of its cluster that are
// there have it. One that has not yet would drop messages that the other queues have
// acknowledged, and be without them when it leads the stream.
func (s *session) everywhere(ctx context.Context, consumer string) (*jetstream.ConsumerInfo, error) {
	for {
		info, err := s.named(ctx, consumer)
		if err != nil {
			return nil, err
		}
		lags := func(p *jetstream.PeerInfo) bool { return !p.Current && !p.Offline }
		others := s.stream.CachedInfo().Config.Replicas - 1
		if others <= 0 || info.Cluster != nil && len(info.Cluster.Replicas) >= others && !slices.ContainsFunc(info.Cluster.Replicas, lags) {
			return info, nil
		}
		if !sleep(ctx, spreadPause) {
			return nil, fmt.Errorf("some servers of the cluster do not have it yet: %w", context.Cause(ctx))
		}
	}
}

// addFilters adds to a consumer's filters. The server can only replace them as
// a whole, so whoever does it holds the queue's lock: two processes that bind
// new topics at once would undo one another's otherwise.
func (b *Broker) addFilters(ctx context.Context, s *session, queue string, want []string) (*jetstream.ConsumerInfo, error) {
	unlock, err := b.lockQueue(ctx, s, queue)
	if err != nil {
		return nil, err
	}
	defer unlock()
	info, err := s.consumer(ctx, queue)
	if err != nil {
		return nil, err
	}
	more := lacking(info.Config, want)
	if len(more) == 0 {
		return info, nil
	}
	changed := info.Config
	changed.FilterSubject, changed.FilterSubjects = "", append(filtersOf(info.Config), more...)
	if _, err := s.stream.UpdateConsumer(ctx, changed); err != nil {
		return nil, err
	}
	return s.everywhere(ctx, durable(queue))
}

// lockPause is the time between attempts to get a queue's lock.
const lockPause = 20 * time.Millisecond

// lockQueue takes the lock on a queue's bindings. The lock is a consumer, for
// making one whose name is taken fails; it is bound to nothing. That of a
// process that died is removed by the server after a while.
func (b *Broker) lockQueue(ctx context.Context, s *session, queue string) (unlock func(), err error) {
	name := lockPrefix + durable(queue)
	lock := jetstream.ConsumerConfig{
		Name:              name,
		Description:       "Lockstep: somebody is changing the queue's bindings, " + nuid.Next(), // two configurations must differ
		FilterSubject:     b.names.nothing(),
		AckPolicy:         jetstream.AckExplicitPolicy,
		InactiveThreshold: 2 * b.cfg.ConfirmTimeout,
		MemoryStorage:     true,
	}
	for {
		_, err := s.stream.CreateConsumer(ctx, lock)
		if err == nil {
			break
		}
		if !errors.Is(err, jetstream.ErrConsumerExists) {
			return nil, err
		}
		if !sleep(ctx, lockPause/2+rand.N(lockPause)) { //nolint:gosec // spreads load, hides nothing
			return nil, fmt.Errorf("its bindings are being changed by another process: %w", context.Cause(ctx))
		}
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.cfg.ConfirmTimeout)
		defer cancel()
		if err := s.stream.DeleteConsumer(ctx, name); err != nil {
			b.log.Warn("jetstream: a queue's bindings stay locked for a while", "queue", queue, "err", err)
		}
	}, nil
}

func (b *Broker) queueConfig(queue string, filters []string) jetstream.ConsumerConfig {
	if len(filters) == 0 { // which would mean everything
		filters = []string{b.names.nothing()}
	}
	return jetstream.ConsumerConfig{
		Durable:        durable(queue),
		Description:    "Lockstep: queue " + queue,
		FilterSubjects: filters,
		AckPolicy:      jetstream.AckExplicitPolicy,
		AckWait:        b.cfg.AckWait,
		MaxDeliver:     -1,
		DeliverPolicy:  jetstream.DeliverByStartSequencePolicy,
		// Each subscription limits itself to Prefetch. A limit for the whole
		// queue would let a vanished process block the others.
		MaxAckPending: -1,
	}
}

// checkQueue reports why a consumer that others have made cannot be a queue.
func checkQueue(c jetstream.ConsumerConfig) error {
	switch {
	case c.DeliverSubject != "":
		return errors.New("its consumer is a push consumer")
	case c.AckPolicy != jetstream.AckExplicitPolicy:
		return errors.New("its consumer does not acknowledge explicitly")
	case c.MaxDeliver > 0:
		return errors.New("its consumer gives up after max_deliver attempts")
	}
	return nil
}

// lacking returns which of the subjects a consumer does not get.
func lacking(c jetstream.ConsumerConfig, want []string) []string {
	have := filtersOf(c)
	if len(have) == 0 { // it gets everything
		return nil
	}
	return slices.DeleteFunc(slices.Clone(want), func(w string) bool { return slices.Contains(have, w) })
}

// filtersOf returns a consumer's filters, whichever way they are written.
func filtersOf(c jetstream.ConsumerConfig) []string {
	if c.FilterSubject != "" {
		return union([]string{c.FilterSubject}, c.FilterSubjects)
	}
	return slices.Clone(c.FilterSubjects)
}
