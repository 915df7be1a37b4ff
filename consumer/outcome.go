package consumer

import (
	"time"

	"github.com/lockstep-go/lockstep/internal/dialect"
)

// Result says in one word what becomes of a message.
type Result string

// The results. The first four acknowledge the message and need nothing more.
const (
	Applied   Result = "applied"   // it changed a row, or its handler was called
	Duplicate Result = "duplicate" // its revision is stored already
	Stale     Result = "stale"     // a later one is stored
	Ignored   Result = "ignored"   // the configuration leaves it out
	Retried   Result = "retried"   // it failed, and a copy will come again after Delay
	// Parked: its row refers to one that has not arrived. Run holds it until that
	// one has been applied, at most for Delay; HandleMessage sends a copy after it.
	Parked Result = "parked"
	Dead   Result = "dead" // it goes to the dead letters, for Reason
)

// Outcome says what becomes of a message, see [Consumer.Apply].
type Outcome struct {
	Result Result
	// Gap: revisions between the stored one and this one were never seen.
	// Downgrade: a SYNC lowered the revision.
	Gap, Downgrade bool
	// Delay is the time until a retried or parked message comes again.
	Delay time.Duration
	// Reason is the word in a dead letter's header: "malformed", "incomplete",
	// "signal", "unknown", "expired", "retries" or "permanent".
	Reason string
	// Err is why a message is retried, parked or dead.
	Err error
}

// afterFailure is the outcome of a message that may be tried again.
func (in *incoming) afterFailure(err error, now time.Time) Outcome {
	f := in.decide(err, now)
	if f.reason != "" {
		return Outcome{Result: Dead, Reason: f.reason, Err: err}
	}
	o := Outcome{Result: Retried, Delay: f.delay, Err: err}
	if !in.handles() && dialect.IsMissingParent(err) {
		o.Result = Parked
	}
	return o
}

// outcomeOf is the outcome of a handler's event that was not a failure.
func outcomeOf(v verdict) Outcome {
	return Outcome{Result: []Result{applied: Applied, duplicate: Duplicate, stale: Stale}[v.outcome], Gap: v.gap, Downgrade: v.downgrade}
}

// outcomeOfOne is the same for a batch of one message.
func outcomeOfOne(t tally) Outcome {
	o := Outcome{Result: Applied, Gap: t.gaps > 0, Downgrade: t.downgraded > 0}
	switch {
	case t.duplicate > 0:
		o.Result = Duplicate
	case t.stale > 0:
		o.Result = Stale
	}
	return o
}
