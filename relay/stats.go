package relay

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Stats is what a relay has done since it was made, and how it stands.
type Stats struct {
	Published int64 // confirmed by the broker and deleted
	Collapsed int64 // deleted with a newer event of their key, see Config.Collapse
	Dropped   int64 // confirmed, but no queue was bound to the topic, and deleted
	Returned  int64 // times that no queue was bound to a message's topic, whatever the policy
	Refused   int64 // tries that the broker refused
	Dead      int64 // messages moved to outbox_dead
	Pauses    int64 // outages of the broker or the database
	// LastConfirmed is when the broker last confirmed a message; zero for never.
	LastConfirmed time.Time
	// Term is the number of this relay's newest term while it holds a lease, else 0.
	Term int64
	// Leases is how many leases it holds: one, or several if there are shards.
	Leases int
	// Leading is when this relay's term began, or the first one of several of its own
	// that followed each other; zero while another relay works.
	Leading time.Time
	// Idle is when there was last nothing to send on any of this relay's shards; zero
	// while one of them has not been like that, and without shards: the outbox is its own.
	Idle time.Time
	// Hindered is since when this relay, which has no lease, could not ask for one;
	// zero while it can.
	Hindered time.Time
	// BatchSize is the number of messages in the last batch.
	BatchSize int64
	// Blocked is how many keys wait for a message that was refused.
	Blocked int64
	// Read, Send, Confirm and Settle are how long the steps of a batch took: reading
	// the outbox, handing to the broker, waiting for its confirmations, deleting.
	// They run side by side, so their sum is more than the time that passed.
	Read, Send, Confirm, Settle Timing
	// Outbox is the last look at the table; see Config.Look.
	Outbox Outbox
}

// Timing is how often something was done and how long it took in sum.
type Timing struct {
	Count int64
	Total time.Duration
}

// Outbox is what a look at the table showed.
type Outbox struct {
	// Pending is how many messages are in the outbox, counted up to a million.
	Pending int64
	// Oldest is the age of the one that was put in first, by the database's clock;
	// 0 when there is none.
	Oldest time.Duration
	// Waiting is how many of them wait behind a message that the broker refused,
	// with those messages, as far as this relay knows.
	Waiting int64
	// At is when the relay looked; zero for never.
	At time.Time
	// Due is when it was to look again: the longer counting takes, the later.
	Due time.Time
	// Since is when there was first seen something to send after there had last been
	// nothing; zero while there is nothing. What waits behind a refused message is
	// not to be sent.
	Since time.Time
}

type stats struct {
	published, collapsed, dropped, returned, refused, dead, pauses, lastConfirmed, hindered, batch atomic.Int64

	read, send, confirm, settle timing

	mu      sync.Mutex
	ledgers map[share]*ledger // each the last that knew what is failing
	leases  int
	term    int64     // the newest of the leases; 0: there is none
	leading time.Time // since when
	terms   map[share]tenure
	outbox  Outbox
}

// tenure is a relay's newest term on a shard, and since when it is the only owner: a
// lease that is lost and taken again, over and over, is no progress.
type tenure struct {
	term  int64
	since time.Time
	idle  time.Time // when there was last nothing to send
	held  bool      // now
}

// began notes a lease, ended the end of one.
func (st *stats) began(of share, term int64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.leases++
	now := tenure{term: term, since: time.Now(), held: true}
	if last, ok := st.terms[of]; ok && last.term == term-1 {
		now.since, now.idle = last.since, last.idle
	}
	if st.terms == nil {
		st.terms = map[share]tenure{}
	}
	st.terms[of] = now
	st.term, st.leading = term, now.since
}

func (st *stats) ended(of share) {
	st.mu.Lock()
	defer st.mu.Unlock()
	last := st.terms[of]
	last.held = false
	st.terms[of] = last
	if st.leases--; st.leases == 0 {
		st.term, st.leading = 0, time.Time{}
	}
}

// idled notes that there is nothing to send on a shard. What others hold up theirs with is
// pending, too, but not for this relay.
func (st *stats) idled(of share) {
	if of.shards == 1 {
		return
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	last := st.terms[of]
	last.idle = time.Now()
	st.terms[of] = last
}

// idle returns when the shard that has been busy for longest last was not.
func (st *stats) idle() (first time.Time) {
	for _, t := range st.terms {
		switch {
		case !t.held:
		case t.idle.IsZero():
			return time.Time{}
		case first.IsZero() || t.idle.Before(first):
			first = t.idle
		}
	}
	return first
}

// asked notes whether a relay without a lease could ask for one.
func (st *stats) asked(ok bool) {
	if ok {
		st.hindered.Store(0)
	} else {
		st.hindered.CompareAndSwap(0, time.Now().UnixNano())
	}
}

type timing struct{ count, total atomic.Int64 }

func (t *timing) since(began time.Time) {
	t.count.Add(1)
	t.total.Add(int64(time.Since(began)))
}

func (t *timing) snapshot() Timing {
	return Timing{Count: t.count.Load(), Total: time.Duration(t.total.Load())}
}

// Stats returns the counts so far. It may be called at any time and never blocks
// on the database.
func (r *Relay) Stats() Stats {
	st := &r.stats
	s := Stats{
		Published: st.published.Load(), Collapsed: st.collapsed.Load(), Dropped: st.dropped.Load(), Returned: st.returned.Load(),
		Refused: st.refused.Load(), Dead: st.dead.Load(), Pauses: st.pauses.Load(),
		BatchSize: st.batch.Load(),
		Read:      st.read.snapshot(), Send: st.send.snapshot(), Confirm: st.confirm.snapshot(), Settle: st.settle.snapshot(),
	}
	if at := st.lastConfirmed.Load(); at > 0 {
		s.LastConfirmed = time.Unix(0, at)
	}
	if at := st.hindered.Load(); at > 0 {
		s.Hindered = time.Unix(0, at)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, l := range st.ledgers {
		s.Blocked += int64(l.blockedKeys())
	}
	s.Outbox, s.Leases, s.Term, s.Leading, s.Idle = st.outbox, st.leases, st.term, st.leading, st.idle()
	return s
}

// Stalled reports why the relay is not healthy: for longer than limit the outbox could
// not be looked at, or the lease not be asked for, or messages were in it that could be
// sent and none was confirmed while this relay held the lease. It returns nil for a
// relay that makes progress, has nothing to do but to wait for messages that the
// broker refused (see Blocked), or stands by, and needs Config.Look.
func (s Stats) Stalled(now time.Time, limit time.Duration) error {
	o := s.Outbox
	if o.At.IsZero() {
		return nil // it has just begun
	}
	due := o.At
	if o.Due.After(due) {
		due = o.Due
	}
	if late := now.Sub(due); late > limit {
		return fmt.Errorf("relay: the outbox could not be looked at for %v", now.Sub(o.At).Round(time.Second))
	}
	if !s.Hindered.IsZero() && now.Sub(s.Hindered) > limit {
		return fmt.Errorf("relay: for %v the lease could not be asked for", now.Sub(s.Hindered).Round(time.Second))
	}
	if s.Term == 0 || o.Pending <= o.Waiting || o.Since.IsZero() {
		return nil
	}
	moved := o.Since
	for _, at := range []time.Time{s.Leading, s.LastConfirmed, s.Idle} {
		if at.After(moved) {
			moved = at
		}
	}
	if s.LastConfirmed.After(o.At) {
		return nil // what was pending at the last look may have gone since
	}
	if idle := now.Sub(moved); idle > limit {
		pending := "1 message is pending"
		if n := o.Pending - o.Waiting; n > 1 {
			pending = fmt.Sprintf("%d messages are pending", n)
		}
		return fmt.Errorf("relay: %s and none was confirmed for %v", pending, idle.Round(time.Second))
	}
	return nil
}

// tell has a session's ledger stand for that of the share's session before.
func (st *stats) tell(of share, l *ledger) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.ledgers == nil {
		st.ledgers = map[share]*ledger{}
	}
	st.ledgers[of] = l
}

// untell takes the share's ledger away: no session follows.
func (st *stats) untell(of share) {
	st.mu.Lock()
	defer st.mu.Unlock()
	delete(st.ledgers, of)
}

// maxLook is how many times as long as a look took the next one waits, so that
// counting costs one or two hundredths of a processor at most.
const maxLook = 50

// lookPause is how long to wait for the next look, at least as long as asked for. It goes
// by the shorter of the last two: where a machine or a database halted in one, counting is
// not slow.
func lookPause(least, took, before time.Duration) time.Duration {
	return max(least, maxLook*min(took, before))
}

// watch looks at the table now and then until ctx ends. It works beside the
// lease, so relays that stand by know the outbox too.
func (r *Relay) watch(ctx context.Context) {
	before := time.Duration(0) // the first one may be slow for once
	for ctx.Err() == nil {
		began := time.Now()
		pending, oldest, err := r.store.look(ctx)
		pause := r.look // after an outage, too: how long a call waited for nothing says nothing about counting
		if err == nil {
			took := time.Since(began)
			pause, before = lookPause(r.look, took, before), took
			r.stats.looked(pending, oldest, time.Now(), pause)
		} else if ctx.Err() == nil {
			r.log.Debug("look at the outbox", keyError, err)
		}
		wait(ctx, pause)
	}
}

func (st *stats) looked(pending int64, oldest time.Duration, at time.Time, pause time.Duration) {
	st.mu.Lock()
	defer st.mu.Unlock()
	waiting := int64(0)
	for _, l := range st.ledgers {
		waiting += l.waitingRows()
	}
	since := st.outbox.Since
	switch {
	case pending <= waiting:
		since = time.Time{}
	case since.IsZero():
		since = at
	}
	st.outbox = Outbox{Pending: pending, Oldest: oldest, Waiting: waiting, At: at, Due: at.Add(pause), Since: since}
}

func (s *store) look(ctx context.Context) (pending int64, oldest time.Duration, err error) {
	type seen struct{ pending, oldest int64 }
	o, err := bounded(ctx, callTimeout, func(ctx context.Context) (o seen, err error) {
		var age sql.NullInt64
		err = s.db.QueryRowContext(ctx, s.sql.Look).Scan(&o.pending, &age)
		o.oldest = age.Int64
		return o, err
	})
	if err != nil {
		return 0, 0, fmt.Errorf("look at the outbox: %w", err)
	}
	return o.pending, time.Duration(max(o.oldest, 0)) * time.Millisecond, nil
}
