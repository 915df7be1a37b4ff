package jetstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/lockstep-go/lockstep/event"
)

// Publish sends the messages to one topic and returns when all are confirmed,
// or the errors of those that are not, joined. A message on a broadcast topic
// that no queue is bound to is let go, on a direct one (see [event.IsDirect])
// it is an error. It blocks for ConfirmTimeout at most to get them out and as
// long again for the confirmations.
func (b *Broker) Publish(topic string, msgs ...*message.Message) error {
	ctx := context.Background()
	errs := b.PublishAsync(ctx, slices.Repeat([]string{topic}, len(msgs)), msgs)(ctx)
	return errors.Join(slices.DeleteFunc(errs, func(err error) bool { return event.Unwanted(topic, err) })...)
}

// PublishAsync hands the messages to the server in their order, each with the
// topic of the same index, and returns without waiting for confirmations.
// Messages of a later call reach the stream after those of an earlier one. It
// blocks while Config.Window messages are unconfirmed, for ConfirmTimeout or
// until ctx ends.
//
// The returned function must be called exactly once. It blocks until every
// message is confirmed, refused or given up, bounded by its ctx and
// ConfirmTimeout, and returns nil if all are confirmed, else one entry for each
// message, nil if that one is. A [RefusedError] condemns its message alone; any
// other error says nothing about the message, and until the function of every
// call so far has returned, later calls fail with [ErrInDoubt].
func (b *Broker) PublishAsync(ctx context.Context, topics []string, msgs []*message.Message) func(context.Context) []error {
	c := newCall(len(msgs))
	if len(topics) != len(msgs) {
		err := fmt.Errorf("jetstream: publish: %d topics for %d messages", len(topics), len(msgs))
		return func(context.Context) []error { return slices.Repeat([]error{err}, max(1, len(msgs))) }
	}
	return b.dispatch(ctx, c, func(ctx context.Context, s *session) { b.fill(ctx, s, c, topics, msgs) })
}

// PublishAfter stores a message that the server publishes on the topic when
// the delay is over; until then it survives restarts of everything. It returns
// when the storing is confirmed, within the bounds that Publish has. Without a
// delay it is Publish.
func (b *Broker) PublishAfter(ctx context.Context, delay time.Duration, topic string, msg *message.Message) error {
	if delay <= 0 {
		return errors.Join(b.PublishAsync(ctx, []string{topic}, []*message.Message{msg})(ctx)...)
	}
	due := time.Now().Add(delay)
	c := newCall(1)
	wait := b.dispatch(ctx, c, func(ctx context.Context, s *session) { b.fillSchedule(ctx, s, c, due, topic, msg) })
	return errors.Join(wait(ctx)...)
}

// dispatch sends a call's items after fill has made them.
func (b *Broker) dispatch(ctx context.Context, c *call, fill func(context.Context, *session)) func(context.Context) []error {
	s, err := b.begin()
	if err != nil {
		return func(context.Context) []error { return slices.Repeat([]error{err}, len(c.items)) }
	}
	limited, cancel := context.WithTimeout(ctx, b.cfg.ConfirmTimeout)
	defer cancel()
	fill(limited, s)
	if !s.send(limited, c) {
		b.doubt()
	}
	deadline := time.Now().Add(b.cfg.ConfirmTimeout)
	return func(ctx context.Context) []error { return b.collect(ctx, s, c, deadline) }
}

// begin opens a call.
func (b *Broker) begin() (*session, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return nil, ErrClosed
	case b.inDoubt:
		return nil, ErrInDoubt
	case b.cur == nil:
		return nil, fmt.Errorf("%w: %w", ErrNotConnected, b.lastErr)
	}
	b.unwaited++
	return b.cur, nil
}

// doubt stops sending until every open call has been waited for.
func (b *Broker) doubt() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inDoubt = b.unwaited > 0
}

// collect waits for a call's outcomes and closes the call.
func (b *Broker) collect(ctx context.Context, s *session, c *call, deadline time.Time) []error {
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-c.done:
	default:
		select {
		case <-c.done:
		case <-ctx.Done():
			s.acks.settleFrom(c, 0, fmt.Errorf("%w: %w", ErrUnconfirmed, context.Cause(ctx)))
		case <-timer.C:
			s.acks.settleFrom(c, 0, ErrUnconfirmed)
		}
	}
	<-c.done
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unwaited--
	b.inDoubt = b.unwaited > 0 && (b.inDoubt || slices.ContainsFunc(c.errs, isOutage))
	return c.errs
}

// isOutage reports whether an error says nothing about its message.
func isOutage(err error) bool {
	var refused *RefusedError
	return err != nil && !errors.As(err, &refused)
}

// fill makes the items of a call. Those that cannot be sent are settled.
func (b *Broker) fill(ctx context.Context, s *session, c *call, topics []string, msgs []*message.Message) {
	routes := map[string]route{}
	for i, msg := range msgs {
		r, ok := routes[topics[i]]
		if !ok {
			r = b.route(ctx, s, topics[i])
			routes[topics[i]] = r
		}
		it := &c.items[i]
		it.topic = topics[i]
		if msg != nil {
			it.uuid = msg.UUID
		}
		err := r.err
		if err == nil {
			it.msg, err = encode(r.subject, msg)
		}
		if err != nil {
			s.acks.settleOne(c, i, outcome(it.topic, it.uuid, err))
		}
	}
}

// route is where the messages of a topic go to, or why they go nowhere.
type route struct {
	subject string
	err     error
}

func (b *Broker) route(ctx context.Context, s *session, topic string) route {
	subject, err := b.names.topic(topic)
	if err == nil && !b.routed(ctx, s, subject) {
		err = errUnbound
	}
	return route{subject: subject, err: err}
}

func encode(subject string, msg *message.Message) (nats.Msg, error) {
	h, life, err := headers(msg)
	if err != nil {
		return nats.Msg{}, err
	}
	if life > 0 {
		h[jetstream.MsgTTLHeader] = []string{ttlHeader(life)}
	}
	return nats.Msg{Subject: subject, Header: h, Data: msg.Payload}, nil
}

// fillSchedule makes the item of a delayed message.
func (b *Broker) fillSchedule(ctx context.Context, s *session, c *call, due time.Time, topic string, msg *message.Message) {
	it := &c.items[0]
	it.topic = topic
	if msg != nil {
		it.uuid = msg.UUID
	}
	subject, err := b.names.topic(topic)
	if err == nil {
		it.msg.Header, err = scheduleHeaders(msg, due, subject)
	}
	if err != nil {
		s.acks.settleOne(c, 0, outcome(topic, it.uuid, err))
		return
	}
	schedule := b.names.delays + nuid.Next()
	// Without the keeper the server would confirm the schedule and drop it.
	if !b.routed(ctx, s, schedule) {
		if err := b.declareKeeper(ctx, s); err != nil {
			s.acks.settleOne(c, 0, outcome(topic, it.uuid, err))
			return
		}
	}
	it.msg.Subject = schedule
	it.msg.Data = msg.Payload
}

func scheduleHeaders(msg *message.Message, due time.Time, target string) (nats.Header, error) {
	h, life, err := headers(msg)
	if err != nil {
		return nil, err
	}
	h[jetstream.ScheduleHeader] = []string{"@at " + due.UTC().Format(time.RFC3339Nano)}
	h[jetstream.ScheduleTargetHeader] = []string{target}
	if life > 0 {
		h[jetstream.ScheduleTTLHeader] = []string{ttlHeader(life)}
	}
	return h, nil
}

// send puts a call's items on the wire, save those without a subject, which
// have their outcome already. It reports whether it got to the end; the rest
// is settled.
func (s *session) send(ctx context.Context, c *call) bool {
	if err := s.acks.enroll(c); err != nil {
		s.acks.settleFrom(c, 0, err)
		return false
	}
	reply := []byte(s.acks.prefix)
	for i := 0; i < len(c.items); {
		end, err := s.acks.reserve(ctx, c, i)
		if err != nil {
			s.acks.settleFrom(c, i, err)
			return false
		}
		for ; i < end; i++ {
			it := &c.items[i]
			if it.msg.Subject == "" {
				continue
			}
			it.msg.Reply = string(strconv.AppendUint(reply[:len(s.acks.prefix)], c.first+uint64(i), 36))
			err := s.nc.PublishMsg(&it.msg)
			if err == nil {
				continue
			}
			err = outcome(it.topic, it.uuid, err)
			if isOutage(err) {
				s.acks.settleFrom(c, i, err)
				return false
			}
			s.acks.settleOne(c, i, err)
		}
	}
	return true
}
