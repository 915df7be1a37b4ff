package relay

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// An outage is over when something gets through. What was sent behind the messages that
// it hit, and waits with their keys now, does not end it, whenever the reader looks.
func TestOutageOutlastsTheBatchesBehindIt(t *testing.T) {
	t.Parallel()
	var said strings.Builder
	r := &Relay{log: slog.New(slog.NewTextHandler(&said, nil)), policy: testPolicy, poll: time.Millisecond}
	s := &session{
		Relay: r, lease: &lease{share: share{0, 1}}, ledger: newLedger(), delete: &deleter{}, settled: make(chan struct{}, 1),
		sweptAt: time.Now(),
	}
	r.pause(errAway)
	settle := func(rows []row, err error) error {
		return s.settle(t.Context(), batch{rows: rows, wait: func(context.Context) []error { return allOf(len(rows), err) }})
	}
	first, behind := s.ledger.admit(rowsOf("a", 1)), s.ledger.admit(rowsOf("a", 2))
	if err := settle(first, errAway); err == nil {
		t.Fatal("the broker's being away is no outage")
	}
	_ = settle(behind, errAway)
	if s.ledger.underWay() != 0 {
		t.Fatalf("%d messages are under way, want none", s.ledger.underWay())
	}
	if err := s.idle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !r.paused.Load() || strings.Contains(said.String(), "resumed") {
		t.Errorf("with nothing confirmed the relay goes on:\n%s", said.String())
	}
}
