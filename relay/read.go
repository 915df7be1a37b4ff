package relay

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"
)

// read feeds batches of rows until ctx ends.
func (s *session) read(ctx context.Context, fetched chan<- []row) error {
	s.idleSince, s.sweptAt, s.heededAt = time.Now(), time.Now(), time.Now()
	for ctx.Err() == nil {
		began := time.Now()
		rows, found, err := s.next(ctx)
		s.stats.read.since(began)
		if err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // the end was asked for; the cause is known there
			}
			return err
		}
		behind := s.behind(rows, found)
		rows = s.ledger.admit(rows)
		if s.fold != nil && s.collapse(rows, behind, fetched) {
			s.awake(ctx)
			continue
		}
		if len(rows) > 0 {
			fetched <- rows // the sender takes it in any case: it must be settled
			s.awake(ctx)
			continue
		}
		if found > 0 {
			continue
		}
		if err := s.idle(ctx); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// behind reports whether a read was as large as one may be, so that there is more.
func (s *session) behind(rows []row, found int) bool {
	if s.fold == nil || found == 0 {
		return false
	}
	size := int64(0)
	for _, r := range rows {
		size += int64(len(r.payload))
	}
	return found >= s.batchSize || size >= s.batchBytes
}

// collapse takes the rows of a read, and sends what it has of them once nothing
// more is there or it has enough. It returns false for rows that are to be sent
// as they are: those of keys that were refused, and none.
func (s *session) collapse(rows []row, behind bool, fetched chan<- []row) bool {
	again := len(rows) > 0 && rows[0].retry
	if !again {
		s.fold.add(rows)
	}
	// What was read before goes before rows that are tried again.
	if kept := len(s.fold.kept); kept > 0 && (again || !behind || s.fold.full(s.batchSize, s.batchBytes)) {
		fetched <- s.fold.take()
	}
	return len(rows) > 0 && !again
}

// next reads what is to be published next: keys to try again first, then rows
// that appeared late, then new ones. found counts rows of other shards too.
func (s *session) next(ctx context.Context) (rows []row, found int, err error) {
	now := time.Now()
	if err := s.heed(ctx, now); err != nil {
		return nil, 0, err
	}
	if s.retried = !s.retried && !now.Before(s.keysDue); s.retried {
		ids, due := s.ledger.due(now)
		s.keysDue = earliest(due, now.Add(keysPace))
		if len(ids) > 0 {
			rows, err := s.fetch.byID(ctx, ids, s.batchBytes)
			s.ledger.asked(ids, rows, err)
			if len(rows) > 0 || err != nil {
				return rows, len(rows), err
			}
		}
	}
	if rows, err = s.forward(ctx, now); err != nil {
		return nil, 0, err
	}
	found = len(rows)
	if s.lease.share.shards > 1 {
		rows = slices.DeleteFunc(rows, func(r row) bool { return r.metadata == nil })
	}
	return rows, found, nil
}

// heedEvery is how often a relay with blocked keys looks whether it was asked to
// try them now, or to go on without what they wait for.
const heedEvery = 2 * time.Second

// heed takes up what [Admin.RetryFailures] asked for, and what others of Admin's
// methods have taken away.
func (s *session) heed(ctx context.Context, now time.Time) error {
	if now.Sub(s.heededAt) < heedEvery || !s.ledger.blocks() {
		return nil
	}
	s.heededAt = now
	failing, err := s.store.allFailing(ctx, s.lease.share)
	for _, f := range failing {
		if f.attempts == 0 && f.wait == 0 && s.ledger.hasten(f.unit, f.id, now) {
			s.keysDue = now
		}
	}
	if err == nil && s.ledger.hastenFreed(failing, now) {
		s.keysDue = now
	}
	return err
}

// forward reads rows that appeared late and new ones.
func (s *session) forward(ctx context.Context, now time.Time) ([]row, error) {
	if len(s.gaps.ranges) > gapLimit && !s.sweeping {
		if s.sweep(); !s.sweeping {
			return nil, nil // once what is under way is settled
		}
	}
	var xmin, xmax uint64
	check := s.gaps.open() && now.Sub(s.gaps.checked) >= maxGapPace
	if check {
		var err error
		if xmin, xmax, check, err = s.fetch.horizon(ctx); err != nil {
			return nil, err
		}
		if !check { // until the database looks anew, which it does not while others ask as often
			s.gaps.checked = now.Add(rand.N(staleRest)) //nolint:gosec // jitter is no secret
		}
	}
	position := s.ledger.readPosition()
	rows, err := s.fetch.after(ctx, position, s.gaps.ranges, s.batchSize, s.batchBytes)
	if err != nil {
		return nil, err
	}
	s.sweeping = s.sweeping && len(rows) > 0
	late := 0
	for late < len(rows) && rows[late].id <= position {
		late++
	}
	s.gaps.found(rows[:late])
	if check && (len(rows) == 0 || late < len(rows)) { // so the gaps were read in full
		s.gaps.settled(xmin, xmax, now)
		s.gaps.raise(xmin, xmax, now)
		s.gaps.checked = now
		if err := s.nextFloor(ctx); err != nil {
			return nil, err
		}
	}
	if late < len(rows) {
		if s.store.hasGaps() {
			s.gaps.note(position, rows[late:], now)
		}
		s.ledger.read(rows[len(rows)-1].id)
	}
	return rows, nil
}

// nextFloor looks how far the next floor may lie: up to the highest id that is
// visible, far ahead of a relay that is behind. What another shard's owner deletes
// there would otherwise be gaps, each looked into with every read.
func (s *session) nextFloor(ctx context.Context) error {
	if !s.gaps.wantsCandidate() {
		return nil
	}
	highest, err := s.fetch.highest(ctx)
	if err != nil {
		return err
	}
	s.gaps.candidate = gap{high: max(highest, s.ledger.readPosition()), seen: time.Now()}
	return nil
}

const (
	// keysPace bounds how often blocked keys are looked at.
	keysPace = 50 * time.Millisecond
	// sleepAfter is how long there must be nothing to do before writers are
	// asked to notify.
	sleepAfter = time.Second
	// sweepEvery is how often an idle relay reads the table from its beginning,
	// for rows that came to lie behind its position in a way no gap shows: put in
	// by hand with an id, or by a sequence that was set back.
	sweepEvery = time.Minute
	// firstPoll is how soon an idle relay looks again; the wait then doubles.
	firstPoll = 2 * time.Millisecond
)

// idle waits until there may be something to do.
func (s *session) idle(ctx context.Context) error {
	now := time.Now()
	quiet := now.Sub(s.idleSince)
	if s.atRest() { // else a pause may be about to be said
		s.resumed(s.lease.share)
		s.stats.idled(s.lease.share)
	}
	if now.Sub(s.sweptAt) >= sweepEvery {
		s.sweep()
	}
	if s.wake != nil && !s.lease.noted && quiet >= sleepAfter {
		if err := s.lease.asleep(ctx, true); err != nil {
			return err
		}
		return nil // one more look: a writer may not have seen the note yet
	}
	wait := min(max(quiet, firstPoll), s.poll)
	if len(s.gaps.ranges) > 0 {
		wait = min(wait, s.gaps.pace(now))
	}
	if s.ledger.blocks() {
		wait = min(wait, heedEvery)
		wait = min(wait, s.keysDue.Sub(now))
	}
	timer := time.NewTimer(max(wait, time.Millisecond))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-s.settled: // a blocked key may be free now
	case <-s.wake:
	}
	return nil
}

// atRest reports whether nothing is under way and the outcome of all that was is written
// down. Only the reader sends, so it stays like that while the reader looks. The order
// counts: a batch that is not under way any more was noted as unsettled before.
func (s *session) atRest() bool { return s.ledger.underWay() == 0 && !s.unsettled.Load() }

// awake notes that there is work, so that writers need not notify.
func (s *session) awake(ctx context.Context) {
	s.idleSince = time.Now()
	if s.lease.noted {
		if err := s.lease.asleep(ctx, false); err != nil && ctx.Err() == nil {
			s.log.Debug("writers go on notifying", keyError, err)
		}
	}
}

// sweep makes the next read start at the beginning of the table, unless something is under
// way or a batch's outcome is still being written down.
func (s *session) sweep() {
	if s.atRest() && s.ledger.rewind() {
		s.gaps.clear()
		s.sweptAt, s.sweeping = time.Now(), true
	}
}

func earliest(a, b time.Time) time.Time {
	if !a.IsZero() && a.Before(b) {
		return a
	}
	return b
}
