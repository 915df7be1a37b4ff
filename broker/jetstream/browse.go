package jetstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// NoQueueError reports that there is no such queue.
type NoQueueError struct{ Queue string }

func (e *NoQueueError) Error() string { return fmt.Sprintf("jetstream: there is no queue %q", e.Queue) }

// NoQueue is true: tools find errors of all adapters by it.
func (e *NoQueueError) NoQueue() bool { return true }

const (
	// browsePage is how many messages are asked for at a time.
	browsePage = 200
	// noticeTime is how long a queue that seems empty is given.
	noticeTime = 50 * time.Millisecond
)

// Inspect returns how many messages the queue holds, those in consumers' hands
// included, and how many subscriptions ask for messages now. It changes nothing
// and blocks for ConfirmTimeout at most.
func (b *Broker) Inspect(ctx context.Context, queue string) (messages, consumers int, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.ConfirmTimeout)
	defer cancel()
	s, err := b.await(ctx)
	if err != nil {
		return 0, 0, err
	}
	info, err := b.existing(ctx, s, queue)
	if err != nil {
		return 0, 0, err
	}
	return count(info), info.NumWaiting, nil
}

func (b *Broker) existing(ctx context.Context, s *session, queue string) (*jetstream.ConsumerInfo, error) {
	info, err := s.consumer(ctx, queue)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		return nil, &NoQueueError{queue}
	case err != nil:
		return nil, fmt.Errorf("jetstream: queue %q: %w", queue, err)
	}
	return info, nil
}

// count is how many messages are in a queue, delivered or not.
func count(info *jetstream.ConsumerInfo) int {
	return int(info.NumPending) + info.NumAckPending //nolint:gosec // a number of messages
}

// Browse calls visit for each message that waits in the queue when it begins, in
// the queue's order, and takes those out for which visit returns true and nil. The
// others are held until the end and then given back in their order; a process that
// dies gives them back after AckWait. An error of visit ends it. It blocks as
// long as visit does, and for ConfirmTimeout at most for each answer of the server.
//
// Of a message that is held only its name in the queue stays in memory, some 150 bytes.
func (b *Broker) Browse(ctx context.Context, queue string, visit func(msg *message.Message) (bool, error)) error {
	s, err := b.await(ctx)
	if err != nil {
		return err
	}
	info, err := b.existing(ctx, s, queue)
	if err != nil {
		return err
	}
	h := &holding{s: s, queue: info, timeout: b.cfg.ConfirmTimeout, replies: map[uint64]string{}}
	renewing, stop := context.WithCancel(ctx)
	var renewal sync.WaitGroup
	renewal.Go(func() { h.renew(renewing, max(info.Config.AckWait, time.Second)/3) })
	err = b.browse(ctx, s, h, visit)
	stop()
	renewal.Wait()
	b.browsed(queue, h.inOrder())
	return errors.Join(err, h.release())
}

func (b *Broker) browse(ctx context.Context, s *session, h *holding, visit func(msg *message.Message) (bool, error)) error {
	state, err := s.stream.Info(ctx)
	if err != nil {
		return fmt.Errorf("jetstream: browse %q: %w", h.queue.Name, err)
	}
	var stopped error
	var hurry time.Time // when an end before the last message has to be over
	for empty := 0; ; {
		fresh, err := h.fetch()
		switch {
		case err != nil:
			return errors.Join(stopped, err)
		case len(fresh) == 0 && empty > 0:
			return stopped
		case len(fresh) == 0: // the server notices new messages a little later
			empty++
			sleep(ctx, noticeTime)
			continue
		}
		for _, m := range fresh {
			if place(m) > state.State.LastSeq { // it has come in meanwhile
				return stopped
			}
			if stopped == nil {
				stopped = h.show(ctx, m, visit)
			}
		}
		// What is given back comes behind what was given back before. So the rest is
		// fetched too, unseen, to be given back behind it.
		switch {
		case stopped == nil:
		case hurry.IsZero():
			hurry = time.Now().Add(b.cfg.ConfirmTimeout)
		case time.Now().After(hurry):
			return stopped
		}
	}
}

// fetch asks for messages and returns those that are not held yet. It waits until the
// server has said that there are no more: what came later, as from one that halts for a
// moment, would be in nobody's hands until AckWait.
func (h *holding) fetch() ([]*nats.Msg, error) {
	arrived, err := h.page()
	fresh := h.hold(arrived)
	if err != nil {
		return nil, fmt.Errorf("jetstream: browse %q: %w", h.queue.Name, err)
	}
	return fresh, nil
}

// nextSubject is where a queue is asked for messages.
func nextSubject(info *jetstream.ConsumerInfo) string {
	return fmt.Sprintf("$JS.API.CONSUMER.MSG.NEXT.%s.%s", info.Stream, info.Name)
}

// page returns what has arrived, beside an error too.
func (h *holding) page() (arrived []*nats.Msg, err error) {
	from, err := h.s.nc.SubscribeSync(h.s.nc.NewInbox())
	if err != nil {
		return nil, err
	}
	defer func() { _ = from.Unsubscribe() }()
	body := fmt.Appendf(nil, `{"batch":%d,"no_wait":true}`, browsePage)
	if err := h.s.nc.PublishRequest(nextSubject(h.queue), from.Subject, body); err != nil {
		return nil, err
	}
	for len(arrived) < browsePage {
		m, err := from.NextMsg(h.timeout)
		if err != nil {
			return arrived, fmt.Errorf("no answer of the server: %w", err)
		}
		if isAck(m.Reply) {
			arrived = append(arrived, m)
			continue
		}
		switch status := noteOf(m).status; status {
		case statusHeartbeat:
		case statusNoMore, statusExpired:
			return arrived, nil
		default:
			return arrived, fmt.Errorf("the server answers %s %s", status, m.Header.Get("Description"))
		}
	}
	return arrived, nil
}

// show lets visit see a message, and takes it out if it says so.
func (h *holding) show(ctx context.Context, m *nats.Msg, visit func(msg *message.Message) (bool, error)) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	take, err := visit(decode(m))
	if err != nil || !take {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	if _, err := h.s.nc.RequestWithContext(ctx, m.Reply, []byte(bodyAck)); err != nil {
		return fmt.Errorf("jetstream: browse: take a message out: %w", err)
	}
	h.drop(m)
	return nil
}

// holding is the messages that a Browse holds, by their places in the stream.
type holding struct {
	s       *session
	queue   *jetstream.ConsumerInfo
	timeout time.Duration // of each answer
	mu      sync.Mutex
	replies map[uint64]string
}

// place is a message's number in the stream.
func place(m *nats.Msg) uint64 {
	meta, err := m.Metadata()
	if err != nil {
		return 0
	}
	return meta.Sequence.Stream
}

// hold notes messages and returns those that it had not yet. One that came back
// because its time ran out is held under its new name.
func (h *holding) hold(arrived []*nats.Msg) (fresh []*nats.Msg) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range arrived {
		at := place(m)
		if _, known := h.replies[at]; !known {
			fresh = append(fresh, m)
		}
		h.replies[at] = m.Reply
	}
	return fresh
}

func (h *holding) drop(m *nats.Msg) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.replies, place(m))
}

// inOrder returns the names of what is held, in the order of the stream.
func (h *holding) inOrder() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	places := make([]uint64, 0, len(h.replies))
	for at := range h.replies {
		places = append(places, at)
	}
	slices.Sort(places)
	replies := make([]string, len(places))
	for i, at := range places {
		replies[i] = h.replies[at]
	}
	return replies
}

// renew tells the server now and then that the messages are still in hand.
func (h *holding) renew(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			for _, reply := range h.inOrder() {
				h.s.tell(reply, bodyProgress)
			}
		}
	}
}

// release gives everything back in its order. The server has done so when it
// answers the last one.
func (h *holding) release() error {
	replies := h.inOrder()
	if err := h.s.giveBack(replies, bodyNak, h.timeout); err != nil {
		return fmt.Errorf("jetstream: give messages back: they come after the queue's ack_wait: %w", err)
	}
	return nil
}

// giveBack tells the server of messages that it has them back. It has dealt with
// all when it answers the last one.
func (s *session) giveBack(replies []string, body string, timeout time.Duration) error {
	if len(replies) == 0 {
		return nil
	}
	last := len(replies) - 1
	for _, reply := range replies[:last] {
		s.tell(reply, body)
	}
	_, err := s.nc.Request(replies[last], []byte(body), timeout)
	return err
}

// browsed notes, for the stop of an embedded server, what was given back to a
// queue. The server forgets over a restart that it has that back.
func (b *Broker) browsed(queue string, replies []string) {
	if b.server == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.givenBack[queue] = replies
}

// giveBackAgain makes an embedded server write down what Browse gave back.
func (b *Broker) giveBackAgain(s *session) {
	b.mu.Lock()
	all := b.givenBack
	b.mu.Unlock()
	for _, replies := range all {
		_ = s.giveBack(replies, bodyNakAtStop, b.cfg.ConfirmTimeout) // else AckWait brings them back
	}
}

// Bound reports whether a queue is bound to the topic. It blocks for ConfirmTimeout
// at most.
func (b *Broker) Bound(ctx context.Context, topic string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.ConfirmTimeout)
	defer cancel()
	subject, err := b.names.topic(topic)
	if err != nil {
		return false, fmt.Errorf("jetstream: %w", err)
	}
	s, err := b.await(ctx)
	if err != nil {
		return false, err
	}
	return b.routed(ctx, s, subject), nil
}
