package relay

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"go.opentelemetry.io/otel/trace"
)

// session moves messages until its context ends or something is away. Three
// goroutines run side by side, a batch each: one reads, one hands to the broker,
// one waits for the confirmations and deletes.
type session struct {
	*Relay
	lease  *lease
	ledger *ledger
	gaps   gaps
	fetch  *fetcher
	wake   <-chan struct{} // hints of writers; nil: none
	lanes  *laned          // nil: the publisher is pipelined

	retried   bool // the last read was for keys to try again
	sweeping  bool // reading from the beginning, and not at the end yet
	idleSince time.Time
	sweptAt   time.Time
	settled   chan struct{} // a hint for the reader: something was settled
	heededAt  time.Time     // when failures were last read for requests
	keysDue   time.Time     // when blocked keys are looked at next
	fold      *folder       // what was read and waits to be sent; nil: rows are sent as they are
	undeleted error         // why confirmed rows may still be in the table
	unsettled atomic.Bool   // a batch's outcome is being written down, or could not be
}

// batch is rows under way.
type batch struct {
	rows  []row
	spans []trace.Span // of rows that are traced; nil: none is
	// wait returns the broker's answer for each row.
	wait func(ctx context.Context) []error
}

// underWay is how many batches may wait for confirmations beside the one that
// is being handed to the broker.
const underWay = 2

// run returns nil when soft ended and everything under way is settled. hard ends
// it at once.
func (s *session) run(soft, hard context.Context) error {
	if err := s.store.failing(hard, s.lease.share, s.ledger); err != nil {
		return err
	}
	fetch, err := s.store.fetcher(hard, s.lease.share)
	if err != nil {
		return err
	}
	defer fetch.close() //nolint:contextcheck // closing comes after the end of hard too
	s.fetch = fetch
	if s.store.hasGaps() {
		highest, err := fetch.highest(hard)
		if err != nil {
			return err
		}
		s.gaps.candidate = gap{high: highest, seen: time.Now()}
	}

	// stop ends the reading; what is under way is settled all the same.
	reading, stop := context.WithCancelCause(soft)
	defer stop(nil)
	defer context.AfterFunc(hard, func() { stop(context.Cause(hard)) })()
	fetched := make(chan []row)
	sent := make(chan batch, underWay)
	read := make(chan error, 1)
	go func() {
		defer close(fetched)
		read <- s.read(reading, fetched)
	}()
	go func() {
		defer close(sent)
		for rows := range fetched {
			sent <- s.send(hard, rows)
		}
	}()
	var outage error
	for b := range sent {
		if err := s.settle(hard, b); err != nil && outage == nil {
			outage = err
			stop(err)
		}
	}
	if err := <-read; err != nil && outage == nil {
		outage = err
	}
	if outage == nil && hard.Err() != nil {
		outage = context.Cause(hard)
	}
	return outage
}

// send hands rows to the broker.
func (s *session) send(ctx context.Context, rows []row) batch {
	topics := make([]string, len(rows))
	msgs := make([]*message.Message, len(rows))
	for i, r := range rows {
		topics[i] = r.topic
		msgs[i] = newMessage(r)
		rows[i].payload, rows[i].metadata = nil, nil
	}
	if ctx.Err() != nil { // the lease is lost: nothing more may leave
		return batch{rows: rows, wait: func(context.Context) []error { return allOf(len(rows), context.Cause(ctx)) }}
	}
	spans := s.traced(rows, msgs)
	s.stats.batch.Store(int64(len(rows)))
	defer s.stats.send.since(time.Now())
	if s.lanes != nil {
		errs := s.lanes.publish(ctx, rows, topics, msgs)
		return batch{rows, spans, func(context.Context) []error { return errs }}
	}
	return batch{rows, spans, s.pipelined.PublishAsync(ctx, topics, msgs)}
}

func allOf(n int, err error) []error {
	errs := make([]error, n)
	for i := range errs {
		errs[i] = err
	}
	return errs
}

// settle waits for a batch's confirmations and writes down what became of it.
func (s *session) settle(ctx context.Context, b batch) error {
	began := time.Now()
	errs := b.wait(ctx)
	s.stats.confirm.since(began)
	endSpans(b.spans, errs)
	if s.undeleted != nil {
		// An earlier batch will be published again. So must be what was published
		// behind it, or the last word on its keys would be an old one.
		return s.undeleted
	}
	s.unsettled.Store(true) // before the rows are not under way any more
	what := s.ledger.settle(b.rows, errs, s.policy, time.Now())
	defer s.stats.settle.since(time.Now())
	// What is confirmed is deleted even when the lease is lost meanwhile: it is
	// true of these rows whoever relays now.
	if s.undeleted = s.store.settle(context.WithoutCancel(ctx), what); s.undeleted != nil {
		return s.undeleted
	}
	s.count(what)
	select {
	case s.settled <- struct{}{}:
	default:
	}
	if what.outage != nil {
		return fmt.Errorf("publish: %w", what.outage)
	}
	s.unsettled.Store(false)
	return nil
}

func (s *session) count(what settlement) {
	if len(what.done) > 0 {
		s.stats.published.Add(int64(len(what.done) - what.dropped - what.collapsed))
		s.stats.collapsed.Add(int64(what.collapsed))
		s.stats.dropped.Add(int64(what.dropped))
		s.stats.lastConfirmed.Store(time.Now().UnixNano())
		s.resumed()
	}
	for _, topic := range what.droppedTopics {
		s.unwanted(topic)
	}
	s.stats.returned.Add(int64(what.returned))
	s.stats.refused.Add(int64(len(what.failed) + what.apart))
	s.stats.dead.Add(int64(len(what.dead)))
	for _, f := range what.dead {
		s.log.Error("message is dead", keyOutboxID, f.row.id, keyTopic, f.row.topic, keyKey, f.row.unit.key, keyAttempts, f.attempts, keyError, f.err)
	}
	for _, f := range what.failed {
		if f.attempts == 1 {
			s.log.Warn("message refused, its key waits", keyOutboxID, f.row.id, keyTopic, f.row.topic, keyKey, f.row.unit.key, keyError, f.err)
		}
	}
}

// maxWarned bounds the memory of topics that were warned of.
const maxWarned = 10_000

// unwanted warns of a topic that no queue is bound to, once.
func (r *Relay) unwanted(topic string) {
	r.warnedMu.Lock()
	defer r.warnedMu.Unlock()
	if _, warned := r.warned[topic]; warned || len(r.warned) >= maxWarned {
		return
	}
	r.warned[topic] = struct{}{}
	r.log.Warn("no queue is bound to the topic: its messages are dropped", keyTopic, topic)
}

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
// try them now.
const heedEvery = 2 * time.Second

// heed takes up what [Admin.RetryFailures] asked for.
func (s *session) heed(ctx context.Context, now time.Time) error {
	if now.Sub(s.heededAt) < heedEvery || s.ledger.blockedKeys() == 0 {
		return nil
	}
	s.heededAt = now
	failing, err := s.store.allFailing(ctx, s.lease.share)
	for _, f := range failing {
		if f.attempts == 0 && f.wait == 0 && s.ledger.hasten(f.unit, f.id, now) {
			s.keysDue = now
		}
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
		if xmin, xmax, err = s.fetch.horizon(ctx); err != nil {
			return nil, err
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
		s.gaps.raise(xmin, xmax, s.ledger.readPosition(), now)
		s.gaps.checked = now
	}
	if late < len(rows) {
		if s.store.hasGaps() {
			s.gaps.note(position, rows[late:], now)
		}
		s.ledger.read(rows[len(rows)-1].id)
	}
	return rows, nil
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
	if s.ledger.underWay() == 0 && !s.unsettled.Load() { // else a pause may be about to be said
		s.resumed()
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
	if s.ledger.blockedKeys() > 0 {
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

// awake notes that there is work, so that writers need not notify.
func (s *session) awake(ctx context.Context) {
	s.idleSince = time.Now()
	if s.lease.noted {
		if err := s.lease.asleep(ctx, false); err != nil && ctx.Err() == nil {
			s.log.Debug("writers go on notifying", keyError, err)
		}
	}
}

// sweep makes the next read start at the beginning of the table.
func (s *session) sweep() {
	if s.ledger.rewind() {
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
