package consumer

import (
	"fmt"
	"sync"
	"time"
)

// Stats are counters since the consumer was made. A message that is delivered
// twice counts twice.
type Stats struct {
	// Received counts all messages taken from the broker.
	Received int64
	// Applied counts messages that changed a row or a tombstone.
	Applied int64
	// Duplicate counts messages of the revision stored already, Stale those of an
	// older one. Neither changed anything.
	Duplicate, Stale int64
	// Superseded counts messages that a newer one of the same batch made needless.
	Superseded int64
	// Gaps counts how often revisions were missing below an applied SAVE: events
	// that were lost or filtered out, or that will arrive late and be stale.
	Gaps int64
	// Downgraded counts SYNCs that lowered a row's revision.
	Downgraded int64
	// Ignored counts messages that were acknowledged unread: of entities in
	// [Config.Ignore], and SYNCs for all where only direct ones count.
	Ignored int64
	// Retried counts copies put back for another attempt, Dead those that went to
	// the dead-letter queue.
	Retried, Dead int64
	// Purged counts deleted keys that were forgotten for their age.
	Purged int64
	// Parked is how many messages wait now for a row that theirs refers to.
	Parked int64
	// ParkedSince is when the row of the oldest of them was changed in the master; zero
	// when none is parked.
	ParkedSince time.Time
	// Stuck is how many messages are held unacknowledged now because the broker
	// does not take their copy or dead letter.
	Stuck int64
	// Quirks counts messages with an oddity that was overlooked, such as an
	// unreadable expires or a bare NaN.
	Quirks int64
	// Batches counts committed transactions, Isolated those that had to be taken
	// apart because a message did not fit.
	Batches, Isolated int64
	// Late counts calls of handlers that were not done in time, Panics those that
	// panicked.
	Late, Panics int64
	// Pauses counts outages of the database and of the broker.
	Pauses int64
	// Lag is the time from the change in the master to the commit here, of the
	// last message of the last batch. It is no better than the two clocks.
	Lag time.Duration
	// BatchSize is how many messages the last transaction took.
	BatchSize int64
	// Subscribed says that Run has its subscription and takes messages.
	Subscribed bool
	// PausedSince is when the outage began that the consumer waits for; zero
	// while it works. One of a broker that is not [Reachable] begins when a message
	// has to be sent.
	PausedSince time.Time
}

// Stalled reports why the consumer is not healthy: the database or the broker has
// been away for longer than limit. It returns nil for one that works or has
// nothing to do.
func (s Stats) Stalled(now time.Time, limit time.Duration) error {
	if idle := now.Sub(s.PausedSince); !s.PausedSince.IsZero() && idle > limit {
		return fmt.Errorf("consumer: waiting for the database or the broker for %v", idle.Round(time.Second))
	}
	return nil
}

// tally is what one transaction adds to the counters.
type tally struct {
	applied, duplicate, stale, superseded, gaps, downgraded int
}

func (t *tally) add(o tally) {
	t.applied += o.applied
	t.duplicate += o.duplicate
	t.stale += o.stale
	t.superseded += o.superseded
	t.gaps += o.gaps
	t.downgraded += o.downgraded
}

// count adds one message's verdict.
func (t *tally) count(v verdict) {
	switch v.outcome {
	case applied:
		t.applied++
	case duplicate:
		t.duplicate++
	case stale:
		t.stale++
	}
	if v.gap {
		t.gaps++
	}
	if v.downgrade {
		t.downgraded++
	}
}

// counters are Stats that several goroutines add to.
type counters struct {
	mu sync.Mutex
	s  Stats // but for PausedSince, see [outages]
}

// ended sets back what is true of a run only.
func (c *counters) ended() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.s.Subscribed, c.s.Parked, c.s.ParkedSince, c.s.Stuck = false, 0, time.Time{}, 0
}

func (c *counters) snapshot() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.s
}

func (c *counters) add(change func(s *Stats)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.s)
}

// committed counts a transaction; at is the time of its commit.
func (c *counters) committed(t result, messages []*incoming, at time.Time) {
	c.add(func(s *Stats) {
		s.BatchSize = int64(len(messages))
		s.Applied += int64(t.applied)
		s.Duplicate += int64(t.duplicate)
		s.Stale += int64(t.stale)
		s.Superseded += int64(t.superseded)
		s.Gaps += int64(t.gaps)
		s.Downgraded += int64(t.downgraded)
		s.Batches++
		if t.isolated {
			s.Isolated++
		}
		s.Lag = at.Sub(messages[len(messages)-1].Updated)
	})
}

// handled counts a handler's event whose transaction is committed.
func (c *counters) handled(v verdict, in *incoming, at time.Time) {
	var t tally
	t.count(v)
	c.add(func(s *Stats) {
		s.Applied += int64(t.applied)
		s.Duplicate += int64(t.duplicate)
		s.Stale += int64(t.stale)
		s.Gaps += int64(t.gaps)
		s.Downgraded += int64(t.downgraded)
		s.Lag = at.Sub(in.Updated)
	})
}
