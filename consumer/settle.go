package consumer

import (
	"context"
	"maps"
	"strconv"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/event"
)

// Bounds of what the settler has in hand.
const (
	// maxHeld messages may wait for their delay or for the broker. The next one
	// makes the consumer wait.
	maxHeld = 1000
	// maxSending copies are under way to the broker at a time.
	maxSending = 16
	// publishTimeout bounds one attempt at a delayed copy.
	publishTimeout = 30 * time.Second
)

// settler sees to it that a message that was not applied lives on, as a copy for
// another attempt or as a dead letter, before it is acknowledged. It never gives
// up and never drops: while the broker does not take a copy, the message stays
// unacknowledged.
type settler struct {
	*runner
	ctx     context.Context //nolint:containedctx // Run's: its end ends all waiting
	held    chan struct{}
	sending chan struct{}
	group   sync.WaitGroup

	mu    sync.Mutex
	stuck int // copies that the broker does not take at present
}

func newSettler(ctx context.Context, r *runner) *settler {
	return &settler{runner: r, ctx: ctx, held: make(chan struct{}, maxHeld), sending: make(chan struct{}, maxSending)}
}

func (s *settler) wait() { s.group.Wait() }

// fail decides between another attempt and the end.
func (s *settler) fail(f failure) {
	in := f.in
	limit := in.to.entity.table.MaxRetries
	switch {
	case !in.ev.Expires.IsZero() && !in.ev.Expires.After(s.cfg.Now()):
		s.bury(in.msg, in.ev.CQRSID, reasonExpired, f.err)
	case limit != RetryForever && in.ev.Retries >= max(limit, 0):
		s.bury(in.msg, in.ev.CQRSID, reasonRetries, f.err)
	default:
		s.retry(in, f.err)
	}
}

// bury sends a message to the dead letters, its body byte for byte.
func (s *settler) bury(msg *message.Message, entity, reason string, cause error) {
	letter := copyOf(msg, msg.Payload)
	letter.Metadata.Set(event.HeaderReason, reason)
	letter.Metadata.Set(event.HeaderError, shorten(cause.Error(), maxHeaderError))
	letter.Metadata.Set(event.HeaderFailedAt, s.cfg.Now().UTC().Format(time.RFC3339))
	letter.Metadata.Set(event.MetadataTTL, strconv.FormatInt(s.cfg.DeadLetterTTL.Milliseconds(), 10))
	topic := event.DirectTopic(event.DeadLetterQueue(s.cfg.Queue), entity)
	s.log.Warn("dead letter", logEntity, entity, logReason, reason, logError, cause)
	s.settle(msg, 0, func(context.Context) error { return s.broker.Publish(topic, letter) }, func(st *Stats) { st.Dead++ })
}

// maxHeaderError keeps an error's text fit for a header.
const maxHeaderError = 500

// retry sends a copy back to this queue only, after the delay.
func (s *settler) retry(in *incoming, cause error) {
	ev := in.ev
	ev.Retries++
	again := copyOf(in.msg, ev.AppendJSON(make([]byte, 0, len(in.msg.Payload)+16)))
	topic := event.DirectTopic(s.cfg.Queue, ev.CQRSID)
	delay := in.to.entity.table.RetryDelay
	s.log.Debug("retry", logEntity, in.String(), logWait, delay, logError, cause)
	count := func(st *Stats) { st.Retried++ }
	if later, ok := s.broker.(DelayedPublisher); ok {
		s.settle(in.msg, 0, func(ctx context.Context) error { return later.PublishAfter(ctx, delay, topic, again) }, count)
		return
	}
	s.settle(in.msg, delay, func(context.Context) error { return s.broker.Publish(topic, again) }, count)
}

// copyOf makes a new message with a message's identity and headers.
func copyOf(msg *message.Message, payload []byte) *message.Message {
	c := message.NewMessage(msg.UUID, payload)
	c.Metadata = maps.Clone(msg.Metadata)
	if c.Metadata == nil {
		c.Metadata = message.Metadata{}
	}
	for _, name := range []string{event.MetadataTTL, event.HeaderReason, event.HeaderError, event.HeaderFailedAt} {
		delete(c.Metadata, name)
	}
	return c
}

// settle publishes a copy after a time, and acknowledges the original when the
// broker has it. It does not wait for that, unless too much waits already.
func (s *settler) settle(msg *message.Message, after time.Duration, publish func(context.Context) error, count func(*Stats)) {
	if !s.hold() {
		msg.Nack()
		return
	}
	s.group.Go(func() {
		defer func() { <-s.held }()
		if after > 0 && !sleep(s.ctx, after) || !s.persist(publish) {
			msg.Nack()
			return
		}
		s.stats.add(count)
		msg.Ack()
	})
}

// hold takes a place among the held messages. It returns false when there is
// none and Run's context has ended.
func (s *settler) hold() bool {
	select {
	case s.held <- struct{}{}:
		return true
	default:
	}
	select {
	case s.held <- struct{}{}:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// persist repeats a publication until the broker has taken it. It returns false
// when Run's context ended first.
func (s *settler) persist(publish func(context.Context) error) bool {
	for attempt := 0; ; attempt++ {
		err := s.send(publish)
		if err == nil {
			s.unstick(attempt)
			return true
		}
		if attempt == 0 {
			s.stick(err)
		}
		if !sleep(s.ctx, outageBackoff(attempt)) {
			return false
		}
	}
}

func (s *settler) send(publish func(context.Context) error) error {
	select {
	case s.sending <- struct{}{}:
	case <-s.work.Done():
		return s.work.Err()
	}
	defer func() { <-s.sending }()
	ctx, cancel := context.WithTimeout(s.work, publishTimeout)
	defer cancel()
	return publish(ctx)
}

// stick and unstick say once that copies cannot be stored, and once that all are.
func (s *settler) stick(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stuck++; s.stuck == 1 {
		s.stats.add(func(st *Stats) { st.Pauses++ })
		s.log.Warn("the broker does not take a retry or dead letter: its message stays unacknowledged", logError, err)
	}
}

func (s *settler) unstick(attempts int) {
	if attempts == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stuck--; s.stuck == 0 {
		s.log.Info("the broker takes retries and dead letters again")
	}
}
