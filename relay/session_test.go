package relay

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
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
	r.pause(share{0, 1}, errAway)
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
	if len(r.pauses.of) == 0 || strings.Contains(said.String(), "resumed") {
		t.Errorf("with nothing confirmed the relay goes on:\n%s", said.String())
	}
}

// counting confirms all and counts it.
type counting struct {
	PipelinedPublisher
	sent atomic.Int64
}

func (c *counting) PublishAsync(_ context.Context, _ []string, msgs []*message.Message) func(context.Context) []error {
	c.sent.Add(int64(len(msgs)))
	return func(context.Context) []error { return nil }
}

// A process that was halted for longer than its lease sends nothing before it knows whether
// it still has one.
func TestNothingIsSentInDoubtOfTheLease(t *testing.T) {
	t.Parallel()
	for name, renewed := range map[string]bool{"it was renewed": true, "it is lost": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pub := &counting{}
			s := &session{Relay: &Relay{pipelined: pub}, lease: &lease{ttl: time.Minute}}
			s.lease.extend(time.Now().Add(-2 * time.Minute))
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			sent := make(chan batch)
			go func() { sent <- s.send(ctx, rowsOf("a", 1)) }()
			select {
			case <-sent:
				t.Fatal("it did not wait")
			case <-time.After(50 * time.Millisecond):
			}
			if n := pub.sent.Load(); n > 0 {
				t.Errorf("%d messages have left", n)
			}
			want := int64(0)
			if renewed {
				s.lease.extend(time.Now())
				want = 1
			} else {
				cancel(errLeaseLost)
			}
			errs := (<-sent).wait(t.Context())
			if n := pub.sent.Load(); n != want || errors.Is(errors.Join(errs...), errLeaseLost) == renewed {
				t.Errorf("%d messages have left, want %d, and the answer is %v", n, want, errs)
			}
		})
	}
}

// One slow look at the outbox, as of a machine that halted, does not blind the relay for
// fifty times as long; a table that takes long to count is looked at seldom.
func TestLookPause(t *testing.T) {
	t.Parallel()
	const least = time.Second
	for name, c := range map[string]struct{ took, before, want time.Duration }{
		"the first":       {2 * time.Second, 0, least},
		"quick":           {time.Millisecond, time.Millisecond, least},
		"a halt":          {10 * time.Second, time.Millisecond, least},
		"after a halt":    {time.Millisecond, 10 * time.Second, least},
		"slow":            {time.Second, 2 * time.Second, 50 * time.Second},
		"slow as it gets": {time.Second, time.Second, 50 * time.Second},
	} {
		if have := lookPause(least, c.took, c.before); have != c.want {
			t.Errorf("%s: %v, want %v", name, have, c.want)
		}
	}
}

// The outage of one shard's work is not over because another shard has nothing to send.
func TestOutageOfAShardOutlastsAnIdleOne(t *testing.T) {
	t.Parallel()
	var said strings.Builder
	r := &Relay{log: slog.New(slog.NewTextHandler(&said, nil)), policy: testPolicy, poll: time.Millisecond}
	r.stats.began(share{0, 2}, 1)
	r.stats.began(share{1, 2}, 1)
	idle := func(shard int) {
		s := &session{Relay: r, lease: &lease{share: share{shard, 2}}, ledger: newLedger(), settled: make(chan struct{}, 1), sweptAt: time.Now()}
		if err := s.idle(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 { // sessions of the first shard, one after the other
		r.pause(share{0, 2}, errAway)
		idle(1)
	}
	if n := r.Stats().Pauses; n != 1 || strings.Contains(said.String(), "resumed") {
		t.Errorf("%d outages, want 1 that lasts:\n%s", n, said.String())
	}
	idle(0)
	if n := strings.Count(said.String(), "resumed"); n != 1 {
		t.Errorf("with nothing left to send it says %d times that it goes on, want once:\n%s", n, said.String())
	}
}

// What a relay waited for when its lease ran out, and while it asked for another, is one
// outage, over when any of its work goes on.
func TestOutageOutlastsTheLease(t *testing.T) {
	t.Parallel()
	var said strings.Builder
	r := &Relay{log: slog.New(slog.NewTextHandler(&said, nil))}
	r.pause(share{0, 1}, errAway)
	r.left(share{0, 1})
	r.pause(nowhere, errAway)
	if n := r.Stats().Pauses; n != 1 {
		t.Errorf("%d outages, want 1:\n%s", n, said.String())
	}
	r.resumed(share{1, 2})
	r.resumed(share{0, 2})
	if n := strings.Count(said.String(), "resumed"); n != 1 {
		t.Errorf("it says %d times that it goes on, want once:\n%s", n, said.String())
	}
}
