package rabbitmq

import (
	"fmt"
	"time"

	"github.com/lockstep-go/lockstep/event"
)

const (
	// doubtPatience is how long an answer counts as an outage that may speak of one.
	doubtPatience = 30 * time.Second
	// maxWanted bounds how many topics are remembered.
	maxWanted = 10_000
)

// doubts judges answers of RabbitMQ's that may speak of the message or of an outage. It nacks a message
// when the leader of a quorum queue changes, or a queue ends with its node, but also when a queue is full
// that an operator has told to reject what it has no room for. It returns a message when no queue is
// bound, but also while the node is down on which a classic queue lives.
//
// So on a topic that has not been like that before, it is an outage: everything waits, nothing is spent.
// If it goes on and nothing on the topic gets through, the message counts as refused, and other topics go on.
//
// One session after the other uses it, under its own lock.
type doubts struct {
	exchange string
	patience time.Duration
	since    map[string]time.Time // by topic: the first such answer behind its last confirm
	wanted   map[string]struct{}  // topics to all that a queue was bound to
	last     string               // topic with a confirm
}

func newDoubts(exchange string) *doubts {
	return &doubts{
		exchange: exchange, patience: doubtPatience,
		since: map[string]time.Time{}, wanted: map[string]struct{}{},
	}
}

// confirmed ends all doubts about the topic.
func (s *doubts) confirmed(d *delivery) {
	if len(s.since) > 0 {
		delete(s.since, d.topic)
	}
	if d.topic == s.last {
		return
	}
	s.last = d.topic
	if d.exchange == s.exchange && !event.IsDirect(d.topic) && len(s.wanted) < maxWanted {
		s.wanted[d.topic] = struct{}{}
	}
}

// nacked returns what d gets when it was nacked.
func (s *doubts) nacked(d *delivery) error {
	return s.judge(d, &RefusedError{Topic: d.topic, UUID: d.publishing.MessageId, Reason: "not accepted by a queue (nack)"})
}

// returned returns what d gets when no queue was there for it.
func (s *doubts) returned(d *delivery) error {
	_, had := s.wanted[d.topic]
	if had && d.exchange == s.exchange {
		return s.judge(d, &RefusedError{
			Topic: d.topic, UUID: d.publishing.MessageId,
			Reason: "the topic has no queue any more; it may be on a node that is down",
		})
	}
	return &RefusedError{
		Topic: d.topic, UUID: d.publishing.MessageId,
		Reason: "no queue is bound to the topic", unroutable: true,
	}
}

// judge returns an outage at first and the refusal when that lasts.
func (s *doubts) judge(d *delivery, refused *RefusedError) error {
	first, again := s.since[d.topic]
	if !again {
		first = time.Now()
		s.since[d.topic] = first
	}
	if time.Since(first) < s.patience {
		return fmt.Errorf("rabbitmq: publish on topic %q: %s", d.topic, refused.Reason)
	}
	return refused
}
