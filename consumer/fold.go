package consumer

import (
	"slices"
	"time"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// A database statement can touch a row once, and a hot key may fill a batch. So
// the messages of a batch that speak of one key are folded into one step, as
// long as applying the step does exactly what applying the messages in their
// order would do, whatever is stored. Where it would not, the next message goes
// to the next round; the rounds of a batch run one after the other.

// step is what one or more messages of a key amount to.
type step struct {
	// in is the message whose data is written.
	in *incoming
	// guard is what a stored row has to be for that; of no meaning to a DELETE.
	guard dialect.Guard
	// version is the message's, except that a DELETE has the larger revision and
	// the larger time of all DELETEs in it.
	version event.Version
	// pass is the revision, and first the time of a first revision (zero: none),
	// that may replace a tombstone: one message may clear the way for the next.
	pass  int64
	first time.Time
	// seen are the revisions of all messages in it; nil for a single one.
	seen []int64
	// superseded counts the messages that need not be written.
	superseded int
	// stored: what it writes is stored now, or was already.
	stored bool
}

func newStep(in *incoming) *step {
	s := &step{in: in, version: in.Version, pass: in.Revision}
	switch {
	case in.always():
		s.guard = dialect.Always
	case in.signal == event.Sync:
		s.guard = dialect.NotOlder
	}
	if in.first() {
		s.first = in.Updated
	}
	return s
}

func (s *step) deletes() bool { return s.in.signal == event.Delete }

// foldKey tells rows apart.
type foldKey struct {
	to  *entity
	key string
}

func (in *incoming) foldKey() foldKey { return foldKey{in.to.entity, in.key} }

// fold turns a batch, in its order, into rounds of steps. No key stands twice in
// a round, a key's steps keep the order of its messages, and nothing joins a
// round that has a successor: what foreign keys tie together stays in order.
func fold(batch []*incoming) [][]*step {
	type last struct {
		step  *step
		round int
	}
	rounds := [][]*step{make([]*step, 0, len(batch))}
	lasts := make(map[foldKey]*last, len(batch))
	for _, in := range batch {
		key := in.foldKey()
		l := lasts[key]
		switch {
		case l == nil:
			l = &last{step: newStep(in), round: len(rounds) - 1}
			lasts[key] = l
		case l.round == len(rounds)-1 && l.step.merge(in):
			continue
		default:
			l.step = newStep(in)
			l.round = max(l.round+1, len(rounds)-1)
		}
		if l.round == len(rounds) {
			rounds = append(rounds, nil)
		}
		rounds[l.round] = append(rounds[l.round], l.step)
	}
	return rounds
}

// merge takes the key's next message into the step, or returns false where that
// would not be the same as applying one after the other.
func (s *step) merge(next *incoming) bool {
	switch {
	case s.deletes() && next.signal == event.Delete:
		s.version = maxVersion(s.version, next.Version)
	case s.deletes():
		return s.buries(next) && s.drop(next)
	case next.signal == event.Delete:
		return false
	case next.always(), next.Revision > s.version.Revision,
		next.Revision == s.version.Revision && next.signal == event.Sync:
		return s.replace(next)
	default:
		return !s.revivedBy(next) && s.drop(next)
	}
	s.note(next)
	return true
}

// buries reports whether nothing that next may meet after this DELETE lets it
// through: neither the tombstone nor a row newer than the DELETE.
func (s *step) buries(next *incoming) bool {
	if next.always() || next.first() {
		return false
	}
	return next.Revision < s.version.Revision || next.Revision == s.version.Revision && next.signal == event.Save
}

// revivedBy reports whether a message older than this step may still replace a
// tombstone that this step may not.
func (s *step) revivedBy(next *incoming) bool {
	return next.first() && (s.first.IsZero() || next.Updated.After(s.first))
}

// replace makes next the message that is written. Wherever the step would have
// been applied, next would be after it; so next inherits what lets the step pass.
func (s *step) replace(next *incoming) bool {
	if !next.covers(s.in) {
		return false // columns that only the step sets would be lost
	}
	s.note(next)
	n := newStep(next)
	s.in, s.version = next, next.Version
	if s.guard != dialect.Always { // once a step overwrites any row, what follows it does, too
		s.guard = n.guard
	}
	s.pass = max(s.pass, n.pass)
	s.first = later(s.first, n.first)
	return true
}

func (s *step) drop(next *incoming) bool {
	s.note(next)
	return true
}

func (s *step) note(next *incoming) {
	if s.seen == nil {
		s.seen = append(make([]int64, 0, 4), s.in.Revision)
	}
	s.seen = append(s.seen, next.Revision)
	s.superseded++
}

// base returns the lowest stored revision that leaves no gap below the step's.
func (s *step) base() int64 {
	base := s.version.Revision - 1
	if s.seen == nil {
		return base
	}
	slices.Sort(s.seen)
	for _, r := range slices.Backward(s.seen) {
		if r == base {
			base--
		}
	}
	return base
}

// gaps counts the runs of revisions between held and the step's that no message
// of the step brought.
func (s *step) gaps(held int64) int {
	if s.seen == nil {
		if s.version.Revision > held+1 {
			return 1
		}
		return 0
	}
	gaps := 0
	slices.Sort(s.seen)
	for _, r := range s.seen {
		if r > held+1 {
			gaps++
		}
		held = max(held, r)
	}
	return gaps
}
