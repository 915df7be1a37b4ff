package consumer

import (
	"time"

	"github.com/lockstep-go/lockstep/event"
)

// presence says what is stored for a key.
type presence int

const (
	nothing presence = iota
	row
	tombstone
)

// state is what is stored for a key: nothing, or a row or tombstone with its
// version.
type state struct {
	presence
	event.Version
}

// change is what decides whether a message is applied.
type change struct {
	signal event.Signal
	event.Version
	// restarts: the master's revisions start again at 0 when a key is used
	// again, as django-cqrs's do.
	restarts bool
	// force: a SYNC that may lower the revision.
	force bool
}

// outcome says what became of a message.
type outcome int

const (
	applied outcome = iota
	duplicate
	stale
)

// verdict is a decision with what is worth counting about it.
type verdict struct {
	outcome
	// gap: revisions between the stored one and this one were never seen.
	gap bool
	// downgrade: a SYNC lowers the revision.
	downgrade bool
}

// decide is the specification of what a replica does with a message: the
// verdict and what is stored afterwards. Handlers, and tables on SQLite and MySQL,
// run it; PostgreSQL's statements for tables must come to the same, and the tests
// hold them to it.
//
// A late or repeated message never overwrites a newer state, never brings a
// deleted row back and never deletes a row that was made anew.
func decide(have state, in change) (verdict, state) {
	if in.signal == event.Delete {
		return decideDelete(have, in)
	}
	var v verdict
	switch have.presence {
	case row:
		v = decideRow(have, in)
	case tombstone:
		if in.Revision <= have.Revision && (!in.first() || !in.Updated.After(have.Updated)) {
			v.outcome = stale
		}
	case nothing:
	}
	if v.outcome != applied {
		return v, have
	}
	return v, state{row, in.Version}
}

// decideRow is decide for a SAVE or SYNC that meets a row.
func decideRow(have state, in change) verdict {
	switch {
	case in.signal == event.Sync && in.always():
		return verdict{downgrade: in.Revision < have.Revision}
	case in.signal == event.Sync && in.Revision == have.Revision:
		return verdict{} // repairs drift
	case in.Revision == have.Revision:
		return verdict{outcome: duplicate}
	case in.Revision < have.Revision:
		return verdict{outcome: stale}
	}
	return verdict{gap: in.signal == event.Save && in.Revision > have.Revision+1}
}

// decideDelete lets a tombstone keep the larger of all revisions and times it
// has met, the deleted row's too.
func decideDelete(have state, in change) (verdict, state) {
	larger := in.Revision > have.Revision || in.Updated.After(have.Updated)
	switch {
	case have.presence == nothing:
		return verdict{}, state{tombstone, in.Version}
	case larger:
		return verdict{}, state{tombstone, maxVersion(have.Version, in.Version)}
	case have.presence == tombstone && in.Revision == have.Revision && in.Updated.Equal(have.Updated):
		return verdict{outcome: duplicate}, have
	}
	return verdict{outcome: stale}, have
}

// always reports whether a SYNC overwrites a row of any revision.
func (in change) always() bool { return in.signal == event.Sync && (in.force || in.restarts) }

// first reports whether the message may speak of a row that was made anew under
// a used key by a master whose revisions restart.
func (in change) first() bool { return in.restarts && in.Revision == 0 }

func maxVersion(a, b event.Version) event.Version {
	return event.Version{Revision: max(a.Revision, b.Revision), Updated: later(a.Updated, b.Updated)}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
