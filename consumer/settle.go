package consumer

import (
	"context"
	"errors"
	"maps"
	"strconv"
	"strings"
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
}

func newSettler(ctx context.Context, r *runner) *settler {
	return &settler{runner: r, ctx: ctx, held: make(chan struct{}, maxHeld), sending: make(chan struct{}, maxSending)}
}

func (s *settler) wait() { s.group.Wait() }

// fail decides between another attempt and the end.
func (s *settler) fail(f failure) {
	in := f.in
	in.traceError(f.err)
	d := in.decide(f.err, s.cfg.Now())
	if d.reason != "" {
		s.bury(in.msg, in, in.ev.CQRSID, d.reason, f.err)
		return
	}
	s.retry(in, d.delay, f.err)
}

// decide is the policy's answer to a failed attempt.
func (in *incoming) decide(err error, now time.Time) fate {
	if expired := in.expired(now); expired != nil {
		return fate{reason: expired.reason}
	}
	return in.to.entity.policy.decide(in.ev.Retries+1, err)
}

// bury sends a message to the dead letters, its body byte for byte.
// in is nil where it could not be read.
func (s *settler) bury(msg *message.Message, in *incoming, entity, reason string, cause error) {
	letter := s.letter(msg, reason, cause)
	topic := event.DirectTopic(event.DeadLetterQueue(s.cfg.Queue), entity)
	s.logDead(in, entity, reason, cause)
	s.settle(msg, 0, func(context.Context) error { return s.broker.Publish(topic, letter) }, func(st *Stats) { st.Dead++ })
}

// maxLoggedEntity bounds what a stranger calls itself.
const maxLoggedEntity = 60

func (r *runner) logDead(in *incoming, entity, reason string, cause error) {
	if in != nil {
		entity = in.String() // with its key
	} else if rejected := (*rejection)(nil); errors.As(cause, &rejected) && rejected.entity != "" {
		entity = oneLine(rejected.entity, maxLoggedEntity) // none of ours, and so not in any topic
	}
	r.log.Warn("dead letter", logEntity, entity, logReason, reason, logError, oneLine(cause.Error(), maxHeaderError))
}

// letter makes a dead letter of a message.
func (r *runner) letter(msg *message.Message, reason string, cause error) *message.Message {
	limit := maxHeaderError
	if panicked := (*PanicError)(nil); errors.As(cause, &panicked) {
		limit = maxHeaderStack
	}
	letter := copyOf(msg, msg.Payload)
	letter.Metadata.Set(event.HeaderReason, reason)
	letter.Metadata.Set(event.HeaderError, oneLine(cause.Error(), limit))
	letter.Metadata.Set(event.HeaderFailedAt, r.cfg.Now().UTC().Format(time.RFC3339))
	letter.Metadata.Set(event.MetadataTTL, strconv.FormatInt(r.cfg.DeadLetterTTL.Milliseconds(), 10))
	return letter
}

// These keep an error's text, and a panic's stack, fit for a header.
const (
	maxHeaderError = 500
	maxHeaderStack = 2500
)

// oneLine makes a header's text of an error's.
func oneLine(text string, limit int) string {
	return shorten(strings.NewReplacer("\r", "", "\n", " | ", "\t", "", "\x00", "").Replace(text), limit)
}

// again returns how to send a message's next attempt back to this queue only,
// and how long to wait before that, where the broker cannot.
func (r *runner) again(in *incoming, delay time.Duration) (wait time.Duration, publish func(context.Context) error) {
	ev, topic := in.ev, event.DirectTopic(r.cfg.Queue, in.ev.CQRSID)
	ev.Retries++
	msg := copyOf(in.msg, ev.AppendJSON(make([]byte, 0, len(in.msg.Payload)+16)))
	if later, ok := r.broker.(DelayedPublisher); ok {
		return 0, func(ctx context.Context) error { return later.PublishAfter(ctx, delay, topic, msg) }
	}
	return delay, func(context.Context) error { return r.broker.Publish(topic, msg) }
}

// retry sends a copy for another attempt, after the delay.
func (s *settler) retry(in *incoming, delay time.Duration, cause error) {
	s.logRetry(in, delay, cause)
	wait, publish := s.again(in, delay)
	s.settle(in.msg, wait, publish, func(st *Stats) { st.Retried++ })
}

// logRetry says of a message's first failure where one sees it, though not of
// every one where many fail, and of the later ones to those who look closely.
func (r *runner) logRetry(in *incoming, delay time.Duration, cause error) {
	text := oneLine(cause.Error(), maxHeaderError)
	if in.ev.Retries == 0 {
		if show, hidden := r.failures.allow(in.ev.CQRSID, time.Now()); show {
			r.log.Warn("a message failed and is tried again", logEntity, in.String(), logWait, delay, logError, text, "not_shown", hidden)
			return
		}
	}
	r.log.Debug("retry", logEntity, in.String(), logWait, delay, logError, text)
}

// throttle lets one line an entity through in a time, and counts the others.
type throttle struct {
	mu   sync.Mutex
	last map[string]throttled
}

type throttled struct {
	at     time.Time
	hidden int
}

// throttleTime is the least time between two lines about an entity.
const throttleTime = 10 * time.Second

func (t *throttle) allow(cqrsID string, now time.Time) (show bool, hidden int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last == nil {
		t.last = make(map[string]throttled)
	}
	l := t.last[cqrsID]
	if !l.at.IsZero() && now.Sub(l.at) < throttleTime {
		l.hidden++
		t.last[cqrsID] = l
		return false, 0
	}
	t.last[cqrsID] = throttled{at: now}
	return true, l.hidden
}

// copyOf makes a new message with a message's identity and headers.
func copyOf(msg *message.Message, payload []byte) *message.Message {
	c := message.NewMessage(msg.UUID, payload)
	c.Metadata = maps.Clone(msg.Metadata)
	if c.Metadata == nil {
		c.Metadata = message.Metadata{}
	}
	for _, name := range []string{event.MetadataTTL, event.MetadataTopic, event.HeaderReason, event.HeaderError, event.HeaderFailedAt} {
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
func (s *settler) persist(publish func(context.Context) error) (taken bool) {
	stuck := false
	defer func() { s.unstick(stuck, taken) }()
	for attempt := 0; ; attempt++ {
		err := s.send(publish)
		switch {
		case err == nil:
			return true
		case errors.Is(err, errHopeless):
			return false
		case !stuck:
			stuck = true
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
	if s.hopeless() {
		return errHopeless
	}
	ctx, cancel := context.WithTimeout(s.work, publishTimeout)
	defer cancel()
	return publish(ctx)
}

// errHopeless says that a copy was not sent because the run ends.
var errHopeless = errors.New("consumer: the broker takes no copies, and the run ends")

// hopeless reports whether Run's context has ended while the broker takes no
// copies. Each of the many that may wait would take its time to fail.
func (s *settler) hopeless() bool {
	return s.ctx.Err() != nil && s.outages.lasts(unstored)
}

// unstored is the outage of a broker that does not take copies.
const unstored = "storing of copies"

// stick notes that a copy cannot be stored, and says so once.
func (s *settler) stick(err error) {
	s.stats.add(func(st *Stats) { st.Stuck++ })
	s.outages.begin(unstored, err, func() {
		s.stats.add(func(st *Stats) { st.Pauses++ })
		s.log.Warn("the broker does not take a retry or dead letter: its message stays unacknowledged", logError, err)
	})
}

// unstick notes that a copy is taken or given up, which was stuck or not, and says once
// that all go through again.
func (s *settler) unstick(stuck, taken bool) {
	switch {
	case taken:
		s.outages.end(unstored, stuck, func() { s.log.Info("the broker takes retries and dead letters again") })
	case stuck:
		s.outages.leave(unstored)
	}
	if stuck {
		s.stats.add(func(st *Stats) { st.Stuck-- })
	}
}
