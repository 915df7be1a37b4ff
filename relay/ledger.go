package relay

import (
	"math"
	"slices"
	"sync"
	"time"

	"github.com/lockstep-go/lockstep/event"
)

// row is one outbox row on its way.
type row struct {
	id       int64
	unit     unit
	topic    string
	payload  []byte
	metadata []byte
	retry    bool // fetched again because its key was blocked
	// skipped are the ids of older rows of the key that this one is sent for too;
	// see folder. They share its fate, unless it is refused.
	skipped []int64
}

// unit is what order is kept within: one key of one entity, on whichever topic.
type unit struct{ entity, key string }

func unitOf(topic, key string) unit { return unit{event.EntityOf(topic), key} }

// ledger is the owner's memory of the outbox: how far it has read, which keys
// wait, and how many rows are under way. It does no I/O. Everything in it can be
// thrown away and read from the table again.
type ledger struct {
	mu       sync.Mutex
	position int64 // the highest id read
	inFlight int   // rows handed to the publisher and not settled
	blocked  map[unit]*waiting
}

// waiting is a key whose oldest pending message was refused. The messages
// behind it wait; only their ids are kept.
type waiting struct {
	ids      []int64 // ascending; the first is the one that failed
	attempts int     // how often the first one was refused
	retryAt  time.Time
	busy     bool // some of ids are under way
}

func newLedger() *ledger { return &ledger{blocked: map[unit]*waiting{}} }

// block restores a key that was failing when this owner took over.
func (l *ledger) block(u unit, id int64, attempts int, retryAt time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w := l.blocked[u]; w != nil {
		w.ids = append(w.ids, id)
		return
	}
	l.blocked[u] = &waiting{ids: []int64{id}, attempts: attempts, retryAt: retryAt}
}

// hasten makes a blocked key due now if id is the message it waits for, and
// reports whether it was not.
func (l *ledger) hasten(u unit, id int64, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.blocked[u]
	if w == nil || w.busy || w.ids[0] != id || !w.retryAt.After(now) {
		return false
	}
	w.retryAt, w.attempts = now, 1 // it stays alone until it has gone through
	return true
}

// read notes that rows up to position have been read.
func (l *ledger) read(position int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.position = max(l.position, position)
}

func (l *ledger) readPosition() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.position
}

// rewind starts reading from the beginning of the table again. It does so only
// when nothing is under way, and reports whether it did.
func (l *ledger) rewind() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inFlight > 0 {
		return false
	}
	l.position = 0
	return true
}

// admit returns the rows that may be published now and counts them as under
// way. Rows of a blocked key queue up behind it; retried rows pass.
func (l *ledger) admit(rows []row) []row {
	l.mu.Lock()
	defer l.mu.Unlock()
	rows = slices.DeleteFunc(rows, func(r row) bool {
		if r.retry {
			return false
		}
		w := l.blocked[r.unit]
		if w == nil {
			return false
		}
		w.queue(r.id)
		return true
	})
	l.inFlight += len(rows)
	return rows
}

// queue adds an id, unless it is there already because the table was read again.
func (w *waiting) queue(id int64) {
	if i, found := slices.BinarySearch(w.ids, id); !found {
		w.ids = slices.Insert(w.ids, i, id)
	}
}

// queueRow adds a row's id and those it stands for.
func (w *waiting) queueRow(r row) {
	for _, id := range r.skipped {
		w.queue(id)
	}
	w.queue(r.id)
}

// count is how many rows of the table the rows stand for.
func count(rows []row) int {
	n := len(rows)
	for _, r := range rows {
		n += len(r.skipped)
	}
	return n
}

// retryBatch is how many messages of a key that is moving again go at once.
const retryBatch = 256

// due returns the ids to publish again now, and when to ask again.
func (l *ledger) due(now time.Time) (ids []int64, next time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.blocked {
		switch {
		case w.busy:
		case w.retryAt.After(now):
			if next.IsZero() || w.retryAt.Before(next) {
				next = w.retryAt
			}
		case len(ids) >= retryBatch:
			next = now
		case w.attempts > 0: // the failed one alone: what is behind it waits for its success
			w.busy = true
			ids = append(ids, w.ids[0])
		default:
			w.busy = true
			ids = append(ids, w.ids[:min(len(w.ids), retryBatch)]...)
		}
	}
	slices.Sort(ids)
	return ids, next
}

// asked notes what became of ids that were due: those fetched are under way.
// When none was fetched they are not in the table any more and are forgotten;
// when some were, the others may have been over the byte limit and come again.
func (l *ledger) asked(due []int64, fetched []row, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// The byte limit cuts the end only: what is below the last id fetched and was not fetched is gone.
	upTo := int64(math.MaxInt64)
	underWay := make(map[unit]bool, len(fetched))
	there := make(map[int64]bool, len(fetched))
	for _, r := range fetched {
		underWay[r.unit], there[r.id], upTo = true, true, r.id
	}
	if err != nil {
		upTo = -1
	}
	for u, w := range l.blocked {
		head := w.ids[0]
		if _, now := slices.BinarySearch(due, head); !now {
			continue
		}
		w.busy = underWay[u]
		w.ids = slices.DeleteFunc(w.ids, func(id int64) bool {
			_, asked := slices.BinarySearch(due, id)
			return asked && id <= upTo && !there[id]
		})
		if len(w.ids) == 0 {
			delete(l.blocked, u)
		} else if w.ids[0] != head {
			w.attempts = 0
		}
	}
}

// nothingUnderWay reports whether every row that was read is settled.
func (l *ledger) nothingUnderWay() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.inFlight == 0
}

// blockedKeys returns how many keys wait.
func (l *ledger) blockedKeys() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.blocked)
}
