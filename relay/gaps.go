package relay

import (
	"slices"
	"time"
)

// gaps remembers the ids that were missing when the reading position passed
// them. Ids are drawn before the commit, so a missing one may belong to a
// transaction that is still running, or to one that rolled back. A gap is given
// up once every transaction that was running some time after it was noticed has
// ended. It belongs to the fetching goroutine.
type gaps struct {
	ranges []gap
	// checked is when the transactions that are running were last looked at.
	checked time.Time
	// floor is the id up to which nothing can appear any more: every transaction
	// that may have drawn one below has ended. So a backlog with rows missing, as
	// other shards leave it, has no gaps. candidate will be the next floor: it was
	// visible when it was seen, so the ids below it were drawn before.
	floor     int64
	candidate gap // high, seen and horizon
}

type gap struct {
	low, high int64
	seen      time.Time
	// horizon is the first transaction id that was not given out yet when the
	// gap had been open for gapGrace; 0 until then.
	horizon uint64
}

const (
	// gapGrace is longer than a transaction can take from drawing an outbox id
	// to being known as running.
	gapGrace = time.Second
	// gapLimit is how many gaps are remembered one by one. Beyond it the whole
	// table is read again, which needs one gap only.
	gapLimit = 50_000
)

// note remembers what is missing between the position and the rows read after it.
func (g *gaps) note(position int64, rows []row, now time.Time) {
	for _, r := range rows {
		position = max(position, g.floor)
		if r.id > position+1 {
			g.ranges = append(g.ranges, gap{low: position + 1, high: r.id - 1, seen: now})
		}
		position = max(position, r.id)
	}
}

// open reports whether there is anything to hold against running transactions.
func (g *gaps) open() bool { return len(g.ranges) > 0 || g.candidate.high > g.floor }

// wantsCandidate reports whether a new floor is of use and none is in sight.
func (g *gaps) wantsCandidate() bool { return len(g.ranges) > 0 && g.candidate.high <= g.floor }

// raise lifts the floor, with the same bounds as settled.
func (g *gaps) raise(xmin, xmax uint64, now time.Time) {
	c := &g.candidate
	switch {
	case c.high <= g.floor:
	case c.horizon == 0:
		if now.Sub(c.seen) >= gapGrace {
			c.horizon = xmax
		}
	case xmin >= c.horizon:
		g.floor = c.high
		g.ranges = slices.DeleteFunc(g.ranges, func(a gap) bool { return a.high <= g.floor })
		*c = gap{}
	}
}

const (
	minGapPace = 10 * time.Millisecond
	maxGapPace = 250 * time.Millisecond
	// staleRest bounds the rest after an answer of before about what is running. It is
	// so long that several relays leave the database a tenth of a second in between.
	staleRest = 4 * time.Second
)

// pace is how long an idle relay waits before it looks into the gaps again: the
// younger a gap, the likelier its transaction is about to commit.
func (g *gaps) pace(now time.Time) time.Duration {
	youngest := now.Sub(g.ranges[len(g.ranges)-1].seen)
	return min(max(youngest/4, minGapPace), maxGapPace)
}

// found cuts rows that have appeared out of their gaps. Both are in id order.
func (g *gaps) found(rows []row) {
	if len(rows) == 0 {
		return
	}
	kept := make([]gap, 0, len(g.ranges)+len(rows))
	for _, a := range g.ranges {
		for len(rows) > 0 && rows[0].id <= a.high {
			if id := rows[0].id; id >= a.low {
				if id > a.low {
					before := a
					before.high = id - 1
					kept = append(kept, before)
				}
				a.low = id + 1
			}
			rows = rows[1:]
		}
		if a.low <= a.high {
			kept = append(kept, a)
		}
	}
	g.ranges = kept
}

// settled drops the gaps that nothing can appear in any more. xmin and xmax are
// from a snapshot that was taken before the gaps were last read in full.
func (g *gaps) settled(xmin, xmax uint64, now time.Time) {
	g.ranges = slices.DeleteFunc(g.ranges, func(a gap) bool { return a.horizon > 0 && xmin >= a.horizon })
	for i := range g.ranges {
		if a := &g.ranges[i]; a.horizon == 0 && now.Sub(a.seen) >= gapGrace {
			a.horizon = xmax
		}
	}
}

// clear forgets every gap, for when the table is read from its beginning: what
// has appeared late, and by other ways, is wanted again.
func (g *gaps) clear() { g.ranges = nil }
