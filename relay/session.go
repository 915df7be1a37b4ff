package relay

import (
	"context"
	"fmt"
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
	delete *deleter
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
	outage    error         // why it is not known what became of some messages
	unsettled atomic.Bool   // a batch's outcome is being written down, could not be, or is not known
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
	s.stats.tell(s.lease.share, s.ledger) // not before: the last session's knows more until here
	fetch, err := s.store.fetcher(hard, s.lease.share)
	if err != nil {
		return err
	}
	defer fetch.close() //nolint:contextcheck // closing comes after the end of hard too
	s.fetch = fetch
	if s.delete, err = s.store.deleter(hard); err != nil {
		return err
	}
	defer s.delete.close() //nolint:contextcheck // as above
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
	s.lease.holds(ctx)
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
	if s.undeleted = s.delete.settle(context.WithoutCancel(ctx), what); s.undeleted != nil {
		return s.undeleted
	}
	s.count(what)
	if what.outage != nil && s.outage == nil {
		s.outage = fmt.Errorf("publish: %w", what.outage)
	}
	s.unsettled.Store(s.outage != nil) // a batch behind an outage does not end it
	select {
	case s.settled <- struct{}{}:
	default:
	}
	return s.outage
}

func (s *session) count(what settlement) {
	if len(what.done) > 0 {
		s.stats.published.Add(int64(len(what.done) - what.dropped - what.collapsed))
		s.stats.collapsed.Add(int64(what.collapsed))
		s.stats.dropped.Add(int64(what.dropped))
		s.stats.lastConfirmed.Store(time.Now().UnixNano())
		s.resumed(s.lease.share)
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
