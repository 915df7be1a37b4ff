package rabbitmq

import (
	"fmt"
	"time"

	"github.com/lockstep-go/lockstep/event"
)

const (
	// doubtPatience is how long an answer counts as an outage that may speak of one.
	doubtPatience = 30 * time.Second
	// doubtCalm is how long a topic must be without such an answer, and have a confirm, for the next one
	// to be the first again. A sender that something got through for tries again much sooner.
	doubtCalm = 5 * time.Second
	// maxWanted bounds how many topics are remembered.
	maxWanted = 10_000
)

// doubts judges answers of RabbitMQ's that may speak of the message or of an outage. It nacks a message
// when the leader of a quorum queue changes, or a queue ends with its node, but also when a queue is full
// that an operator has told to reject what it has no room for. It returns a message when no queue is
// bound, but also while the node is down on which a classic queue lives.
//
// So on a topic that has not been like that before, it is an outage: everything waits, nothing is spent.
// If it goes on, the message counts as refused, and other topics go on. A confirm alone does not end that: in
// a full queue that is slowly emptied there is room for one message now and then.
//
// One session after the other uses it, under its own lock.
type doubts struct {
	exchange string
	patience time.Duration
	calm     time.Duration
	topics   map[string]*doubt
	wanted   map[string]struct{} // topics to all that a queue was bound to
	last     string              // topic to all with a confirm
}

// doubt is a topic with such answers.
type doubt struct {
	first, last time.Time // answers
	through     bool      // something was confirmed behind the last one
}

// over reports whether a message got through, and no such answer came for a while.
func (t *doubt) over(calm time.Duration) bool { return t.through && time.Since(t.last) >= calm }

func newDoubts(exchange string) *doubts {
	return &doubts{
		exchange: exchange, patience: doubtPatience, calm: doubtCalm,
		topics: map[string]*doubt{}, wanted: map[string]struct{}{},
	}
}

// confirmed notes that something on the topic got through, which ends a doubt that is old.
func (s *doubts) confirmed(d *delivery) {
	if len(s.topics) > 0 {
		s.dispel(d.topic)
	}
	if d.topic == s.last || d.exchange != s.exchange || event.IsDirect(d.topic) {
		return
	}
	s.last = d.topic
	if len(s.wanted) < maxWanted {
		s.wanted[d.topic] = struct{}{}
	}
}

func (s *doubts) dispel(topic string) {
	t := s.topics[topic]
	if t == nil {
		return
	}
	if t.through = true; t.over(s.calm) {
		delete(s.topics, topic)
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
	now := time.Now()
	t := s.topics[d.topic]
	if t == nil || t.over(s.calm) {
		t = &doubt{first: now}
		s.topics[d.topic] = t
	}
	t.last, t.through = now, false
	if now.Sub(t.first) < s.patience {
		return fmt.Errorf("rabbitmq: publish on topic %q: %s", d.topic, refused.Reason)
	}
	return refused
}
