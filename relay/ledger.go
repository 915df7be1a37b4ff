package relay

import (
	"bytes"
	"cmp"
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
	forced   bool // a SYNC that may lower a replica's revision: nothing may come late before it
	retry    bool // fetched again because its key was blocked
	// skipped are the ids of older rows of the key that this one is sent for too;
	// see folder. They share its fate, unless it is refused.
	skipped []int64
}

// unit is what order is kept within: one key of one entity, on whichever topic.
// A SYNC to one queue is a unit of its own, with that topic; see direct.
type unit struct{ entity, key, direct string }

// whole is the unit of the key's other messages.
func (u unit) whole() unit { return unit{u.entity, u.key, ""} }

// place says what order a message is to be kept in, from its topic, key and metadata.
//
// A SYNC to one queue says no more than what its revision says: late, it is stale.
// So the key's other messages need not wait for one that is refused, and a queue
// that is not there holds up nobody else. A forced one lowers a row whenever it
// comes and stays among them. What other programs send on such topics is not known
// to be decided by revision, and does, too.
func place(topic, key string, metadata []byte) (u unit, forced bool) {
	u = unit{entity: event.EntityOf(topic), key: key}
	forced = bytes.Contains(metadata, []byte(event.HeaderForce))
	if !forced && event.IsDirect(topic) && bytes.Contains(metadata, []byte(event.HeaderQueue)) {
		u.direct = topic
	}
	return u, forced
}

// ledger is the owner's memory of the outbox: how far it has read, which keys
// wait, and how many rows are under way. It does no I/O. Everything in it can be
// thrown away and read from the table again.
type ledger struct {
	mu       sync.Mutex
	position int64 // the highest id read
	inFlight int   // rows handed to the publisher and not settled
	blocked  map[unit]*waiting
	directs  map[unit]int // how many of blocked are a key's direct units, by its whole
}

// waiting is a key whose oldest pending message was refused. The messages
// behind it wait; only their ids are kept. An id is in one waiting at most.
type waiting struct {
	unit     unit
	forced   bool    // one of ids is forced: direct SYNCs before it go first
	ids      []int64 // ascending; the first is the one that failed
	attempts int     // how often the first one was refused
	retryAt  time.Time
	busy     bool // some of ids are under way
	asked    bool // the table is being asked for some of ids; others may come in before them meanwhile
	unknown  bool // nothing of it was refused: the broker was away
}

func newLedger() *ledger {
	return &ledger{blocked: map[unit]*waiting{}, directs: map[unit]int{}}
}

// wait blocks a unit that is not.
func (l *ledger) wait(u unit) *waiting {
	w := &waiting{unit: u}
	l.blocked[u] = w
	if u.direct != "" {
		l.directs[u.whole()]++
	}
	return w
}

// free ends a unit's waiting.
func (l *ledger) free(w *waiting) {
	delete(l.blocked, w.unit)
	if w.unit.direct == "" {
		return
	}
	if l.directs[w.unit.whole()]--; l.directs[w.unit.whole()] == 0 {
		delete(l.directs, w.unit.whole())
	}
}

// queueOf returns what a row waits in, or has to; nil when nothing holds it up.
func (l *ledger) queueOf(r row) *waiting {
	own := l.blocked[r.unit]
	if r.unit.direct == "" {
		if own == nil && l.behindDirects(r) {
			own = l.wait(r.unit)
		}
		return own
	}
	if own != nil && own.has(r.id) {
		return own
	}
	if w := l.blocked[r.unit.whole()]; w != nil {
		return w
	}
	return own
}

// behindDirects reports whether a row must not go before the SYNCs to one queue
// that wait: late, they would undo what it forces.
func (l *ledger) behindDirects(r row) bool { return r.forced && l.directs[r.unit.whole()] > 0 }

// block restores a key that was failing when this owner took over.
func (l *ledger) block(r row, attempts int, retryAt time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.blocked[r.unit]
	if w == nil {
		w = l.wait(r.unit)
		w.attempts, w.retryAt = attempts, retryAt
	}
	w.queueRow(r)
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

// hastenFreed makes those keys due now whose refused message is none of the failing
// ones, in id order: it was given up or purged, and what is behind it need not wait for
// its time. One that was refused just now, and is not noted yet, is tried once more.
// It reports whether there are any.
func (l *ledger) hastenFreed(failing []failingRow, now time.Time) (freed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.blocked {
		if w.busy || w.attempts == 0 || !w.retryAt.After(now) {
			continue
		}
		_, fails := slices.BinarySearchFunc(failing, w.ids[0], func(f failingRow, id int64) int { return cmp.Compare(f.id, id) })
		if !fails {
			w.retryAt, freed = now, true
		}
	}
	return freed
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
		w := l.queueOf(r)
		if w == nil {
			return false
		}
		w.queueRow(r)
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

func (w *waiting) has(id int64) bool {
	_, found := slices.BinarySearch(w.ids, id)
	return found
}

// queueRow adds a row's id and those it stands for.
func (w *waiting) queueRow(r row) {
	w.forced = w.forced || r.forced
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
		case w.busy, w.forced && l.directs[w.unit] > 0:
		case w.retryAt.After(now):
			if next.IsZero() || w.retryAt.Before(next) {
				next = w.retryAt
			}
		case len(ids) >= retryBatch:
			next = now
		case w.attempts > 0: // the failed one alone: what is behind it waits for its success
			w.busy, w.asked = true, true
			ids = append(ids, w.ids[0])
		default:
			w.busy, w.asked = true, true
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
	there := make(map[int64]bool, len(fetched))
	for _, r := range fetched {
		there[r.id], upTo = true, r.id
	}
	if err != nil {
		upTo = -1
	}
	for _, w := range l.blocked {
		if !w.asked {
			continue
		}
		w.asked = false
		head := w.ids[0]
		w.busy = slices.ContainsFunc(w.ids[:min(len(w.ids), retryBatch)], func(id int64) bool { return there[id] })
		w.ids = slices.DeleteFunc(w.ids, func(id int64) bool {
			_, asked := slices.BinarySearch(due, id)
			return asked && id <= upTo && !there[id]
		})
		if len(w.ids) == 0 {
			l.free(w)
		} else if w.ids[0] != head {
			w.attempts = 0
		}
	}
}

// underWay is how many rows that were read are not settled.
func (l *ledger) underWay() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.inFlight
}

// waitingRows returns how many rows wait behind refused ones, with these.
func (l *ledger) waitingRows() (n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.blocked {
		if !w.unknown {
			n += int64(len(w.ids))
		}
	}
	return n
}

// blockedKeys returns how many keys wait for a message that was refused.
func (l *ledger) blockedKeys() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.blocked {
		if !w.unknown {
			n++
		}
	}
	return n
}

// blocks reports whether any key waits.
func (l *ledger) blocks() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.blocked) > 0
}
