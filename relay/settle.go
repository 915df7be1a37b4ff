package relay

import (
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/lockstep-go/lockstep/event"
)

// Backoff of a refused message: full jitter below a bound that doubles.
const (
	minBackoff = 200 * time.Millisecond
	maxBackoff = time.Minute
)

func backoff(attempts int) time.Duration {
	bound := maxBackoff
	if shift := attempts - 1; shift < 16 {
		bound = min(maxBackoff, minBackoff<<max(shift, 0))
	}
	return time.Millisecond + rand.N(bound) //nolint:gosec // jitter is no secret
}

// outcome is what the broker made of one message.
type outcome int

const (
	confirmed outcome = iota
	dropped           // confirmed, but no queue wanted it, and the policy is to let it go
	refused           // by the broker, this message itself; may be tried again
	hopeless          // refused for good
	suspect           // refused before, and now nothing else shows whether the broker is there
	unknown           // the broker was away: nothing is known
)

// judge says what a publisher's error for a message on topic means.
func (p policy) judge(topic string, err error) outcome {
	if err == nil {
		return confirmed
	}
	if isUnroutable(err) {
		switch p.unroutable(topic) {
		case Drop:
			return dropped
		case Dead:
			return hopeless
		case Retry:
		}
		return refused
	}
	var refusal interface {
		error
		Permanent() bool
	}
	switch {
	case errors.As(err, new(suspectError)):
		return suspect
	case !errors.As(err, &refusal):
		return unknown
	case refusal.Permanent():
		return hopeless
	}
	return refused
}

func isUnroutable(err error) bool {
	var unroutable interface {
		error
		Unroutable() bool
	}
	return err != nil && errors.As(err, &unroutable) && unroutable.Unroutable()
}

// policy is the part of the Config that settling needs.
type policy struct {
	maxAttempts       int
	broadcast, direct Unroutable
}

func (p policy) unroutable(topic string) Unroutable {
	if event.IsDirect(topic) {
		return p.direct
	}
	return p.broadcast
}

// settlement is what is to be done in the database for a batch.
type settlement struct {
	done   []int64 // to delete
	mended []int64 // failures to forget
	failed []failure
	dead   []failure
	// dropped counts messages among done that no queue wanted.
	dropped int
	// droppedTopics are their topics, neighbours once.
	droppedTopics []string
	// collapsed counts rows among done that a newer one was sent for.
	collapsed int
	// apart counts messages that were sent for several rows and refused; each of
	// the rows is sent by itself now.
	apart int
	// returned counts messages that no queue wanted, whatever becomes of them.
	returned int
	// outage is the reason why some messages' fate is unknown.
	outage error
}

func (s *settlement) drop(topic string) {
	s.dropped++
	if n := len(s.droppedTopics); n == 0 || s.droppedTopics[n-1] != topic {
		s.droppedTopics = append(s.droppedTopics, topic)
	}
}

type failure struct {
	row      row
	err      error
	attempts int
	wait     time.Duration // until the next try
}

// settle works the broker's answers for a batch into the ledger and says what
// the database has to learn. errs is nil when every message was confirmed.
func (l *ledger) settle(rows []row, errs []error, p policy, now time.Time) settlement {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inFlight -= count(rows)
	defer l.idle(rows)()
	var s settlement
	for i, r := range rows {
		w := l.queueOf(r)
		if w != nil && (!r.retry || w.ids[0] != r.id || l.behindDirects(r)) {
			// A message before it was refused while this one was under way. It
			// goes again behind that one, so that the last word is the newest.
			w.queueRow(r)
			continue
		}
		var err error
		if errs != nil {
			err = errs[i] //nolint:gosec // one error a row
		}
		l.settleRow(&s, r, w, err, p, now)
	}
	return s
}

// settleRow works the broker's answer for one row in. w is what the row's key waits
// in when this row was refused before and is the first there, else nil.
func (l *ledger) settleRow(s *settlement, r row, w *waiting, err error, p policy, now time.Time) {
	attempts := 0
	if w != nil {
		attempts = w.attempts
	}
	if isUnroutable(err) {
		s.returned++
	}
	switch result := p.judge(r.topic, err); {
	case result == unknown:
		s.outage = err
		if w == nil { // nothing behind it may overtake it
			w = l.wait(r.unit)
			w.unknown = true
			w.queueRow(r)
		}
	case result == suspect:
		w.retryAt = now.Add(backoff(attempts + 1))
	case result == confirmed, result == dropped:
		if result == dropped {
			s.drop(r.topic)
		}
		s.done = append(append(s.done, r.skipped...), r.id)
		s.collapsed += len(r.skipped)
		if attempts > 0 {
			s.mended = append(s.mended, r.id)
		}
		l.pop(w, now)
	case len(r.skipped) > 0: // nobody knows which of its rows is to blame
		s.apart++
		w = l.wait(r.unit)
		w.queueRow(r)
		w.retryAt = now
	case result == hopeless, attempts+1 >= p.maxAttempts:
		s.dead = append(s.dead, failure{row: r, err: err, attempts: attempts + 1})
		l.pop(w, now)
	default:
		s.failed = append(s.failed, l.tryLater(r, w, err, attempts, now))
	}
}

// tryLater has a refused row wait until it is due again, with all that follows it.
func (l *ledger) tryLater(r row, w *waiting, err error, attempts int, now time.Time) failure {
	if w == nil || w.unit != r.unit {
		l.pop(w, now) // a direct SYNC: those behind it go on
		if w = l.blocked[r.unit]; w == nil {
			w = l.wait(r.unit)
		}
		w.attempts = max(w.attempts, attempts)
	}
	w.queueRow(r)
	w.unknown = false
	w.attempts++
	wait := backoff(w.attempts)
	w.retryAt = now.Add(wait)
	return failure{row: r, err: err, attempts: w.attempts, wait: wait}
}

// idle finds what the rows that were tried again wait in, and returns what notes
// that they are not under way any more.
func (l *ledger) idle(rows []row) func() {
	var queues []*waiting
	for _, r := range rows {
		if !r.retry {
			continue
		}
		if w := l.queueOf(r); w != nil && !slices.Contains(queues[max(0, len(queues)-1):], w) {
			queues = append(queues, w)
		}
	}
	return func() {
		for _, w := range queues {
			w.busy = false
		}
	}
}

// pop takes the settled first message of a blocked key off its queue.
func (l *ledger) pop(w *waiting, now time.Time) {
	if w == nil {
		return
	}
	w.ids = w.ids[1:]
	w.attempts = 0
	w.retryAt = now
	if len(w.ids) == 0 {
		l.free(w)
	}
}
