package relay

import (
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/lockstep-go/lockstep/event"
)

// Without a TracerProvider messages that name a span cost nothing, nor with one those
// that name none.
func TestTracingThatIsOffCostsNothing(t *testing.T) {
	const span = "00-0102030405060708090a0b0c0d0e0f10-0102030405060708-01"
	rows := rowsOf("a", 1, 2, 3)
	msgs := make([]*message.Message, len(rows))
	for i := range msgs {
		msgs[i] = message.NewMessage("01890a5d-ac96-774b-bcce-b302099a8057", nil)
	}
	errs := []error{nil, errAway, nil}
	for name, c := range map[string]struct {
		relay *Relay
		span  string
	}{
		"no provider": {&Relay{}, span},
		"no span":     {&Relay{tracer: noop.NewTracerProvider().Tracer("")}, ""},
	} {
		for _, m := range msgs {
			m.Metadata[event.HeaderTraceParent] = c.span
		}
		if n := testing.AllocsPerRun(100, func() { endSpans(c.relay.traced(rows, msgs), errs) }); n != 0 {
			t.Errorf("%s: %v allocations for three messages, want none", name, n)
		}
		if have := msgs[0].Metadata[event.HeaderTraceParent]; have != c.span {
			t.Errorf("%s: the message names %q, want %q as before", name, have, c.span)
		}
	}
}

// The pause before the next try doubles from 200 ms to a minute, and lies anywhere below
// that, so that what failed together does not come again together.
func TestBackoff(t *testing.T) {
	t.Parallel()
	for attempts, bound := range map[int]time.Duration{
		1: 200 * time.Millisecond, 2: 400 * time.Millisecond, 3: 800 * time.Millisecond, 8: 25600 * time.Millisecond,
		9: 51200 * time.Millisecond, 10: time.Minute, 25: time.Minute, 1000: time.Minute,
	} {
		least, most := time.Hour, time.Duration(0)
		for range 1000 {
			wait := backoff(attempts)
			least, most = min(least, wait), max(most, wait)
		}
		if least < time.Millisecond || least > bound/10 || most < bound*9/10 || most > bound+time.Millisecond {
			t.Errorf("after %d attempts the pauses are from %v to %v, want them all over up to %v", attempts, least, most, bound)
		}
	}
	l, now := newLedger(), time.Now()
	s := l.settle(l.admit(rowsOf("a", 1)), []error{refusal{}}, testPolicy, now)
	due, next := l.due(now)
	if len(s.failed) != 1 || len(due) > 0 || !next.Equal(now.Add(s.failed[0].wait)) {
		t.Errorf("refused with %+v, due now %v, next at %v behind; want it due when its pause is over", s.failed, due, next.Sub(now))
	}
}
