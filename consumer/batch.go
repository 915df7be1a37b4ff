package consumer

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// maxBatchBytes bounds the payload of one transaction.
const maxBatchBytes = 8 << 20

// batch is what was taken at once, in the order of arrival.
type batch struct {
	// fresh goes into one transaction and, after it, again into another: messages
	// that did not fit before likely do not now, and are not to spoil the rest.
	fresh, again part
	// unfit are messages that are known not to fit, rejects those that are not
	// tried at all.
	unfit   []failure
	rejects []reject
	size    int
	bytes   int
}

// part is what goes into one transaction. plan may be nil.
type part struct {
	messages []*incoming
	plan     any
}

// reject is a message that becomes a dead letter without being tried.
type reject struct {
	msg    *message.Message
	entity string // the CQRS ID where it is one of ours, else unknownEntity
	cause  *rejection
}

func (b *batch) full(limit int) bool { return b.size >= limit || b.bytes >= maxBatchBytes }

// intake decodes messages into batches while earlier ones are being applied. A
// batch waits for nothing: it grows only as long as the transaction before it
// takes.
func (r *runner) intake(ctx context.Context, messages <-chan *message.Message, out chan<- *batch) {
	defer close(out)
	defer func() { // those of paused entities
		for _, in := range r.held {
			in.msg.Nack()
		}
		r.held = nil
	}()
	for {
		b := &batch{}
		_, resumed := r.pauses.holds("")
		r.unhold(b)
		if b.size > 0 && !r.fill(ctx, b, messages, out) {
			return
		}
		if b.size > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-resumed:
			continue
		case m, ok := <-messages:
			if !ok {
				return
			}
			r.take(b, m)
		}
		if b.size > 0 && !r.fill(ctx, b, messages, out) {
			return
		}
	}
}

// unhold moves the messages of entities that are not paused any more into a batch.
func (r *runner) unhold(b *batch) {
	if len(r.held) == 0 {
		return
	}
	still := r.held[:0]
	for _, in := range r.held {
		if paused, _ := r.pauses.holds(in.ev.CQRSID); paused {
			still = append(still, in)
		} else {
			r.place(b, in, nil)
		}
	}
	clear(r.held[len(still):])
	r.held = still
}

// fill adds to a batch until it is handed on. It returns false when there will
// be no more messages.
func (r *runner) fill(ctx context.Context, b *batch, messages <-chan *message.Message, out chan<- *batch) bool {
	for !b.full(r.cfg.BatchSize) {
		select { // what has arrived comes first
		case m, ok := <-messages:
			if !ok {
				out <- b
				return false
			}
			r.take(b, m)
			continue
		default:
		}
		select {
		case out <- b:
			return true
		case m, ok := <-messages:
			if !ok {
				out <- b
				return false
			}
			r.take(b, m)
		case <-ctx.Done():
			out <- b
			return false
		}
	}
	b.fresh.plan = r.engine.plan(b.fresh.messages) // a full batch can be planned ahead
	out <- b
	return true
}

// take decodes a message and puts it where it belongs.
func (r *runner) take(b *batch, msg *message.Message) {
	in, err := r.receive(msg)
	switch {
	case errors.Is(err, errIgnored):
		msg.Ack()
	case in == nil:
		r.place(b, &incoming{msg: msg}, err)
	case err == nil && in.handles():
		r.handlers.add(in)
	case err == nil && r.holds(in):
		r.held = append(r.held, in)
	default:
		r.place(b, in, err)
	}
}

// holds reports whether a message is to be held: its entity is paused, or was
// and others wait before it.
func (r *runner) holds(in *incoming) bool {
	paused, _ := r.pauses.holds(in.ev.CQRSID)
	return paused || slices.ContainsFunc(r.held, func(other *incoming) bool { return other.to.entity == in.to.entity })
}

// place puts a message, with the error of its decoding, into a batch.
func (r *runner) place(b *batch, in *incoming, err error) {
	b.size++
	b.bytes += len(in.msg.Payload)
	rejected := (*rejection)(nil)
	switch {
	case err == nil && in.ev.Retries > 0:
		b.again.messages = append(b.again.messages, in)
	case err == nil:
		b.fresh.messages = append(b.fresh.messages, in)
	case errors.As(err, &rejected):
		id := unknownEntity
		if in.to != nil {
			id = in.ev.CQRSID
		}
		b.rejects = append(b.rejects, reject{in.msg, id, rejected})
	default:
		b.unfit = append(b.unfit, failure{in, err})
	}
}

// errIgnored says that a message is acknowledged unread.
var errIgnored = errors.New("consumer: ignored")

// receive decodes and counts a message. Its errors are those of read, or
// errIgnored.
func (r *runner) receive(msg *message.Message) (*incoming, error) {
	in, err := read(r.replicas(), msg, r.cfg.Now())
	rejected := (*rejection)(nil)
	switch {
	case errors.As(err, &rejected) && rejected.reason == reasonUnknown && slices.Contains(r.cfg.Ignore, rejected.entity):
		err = errIgnored
	case in != nil && in.ev.Signal == event.Sync && in.to.entity.policy.onlyDirectSyncs && !in.direct(r.cfg.Queue):
		err = errIgnored
	}
	if r.tracer != nil && in != nil {
		r.trace(in)
		in.traceError(err)
	}
	r.stats.add(func(s *Stats) {
		s.Received++
		if in != nil && in.ev.Quirks != 0 {
			s.Quirks++
		}
		if errors.Is(err, errIgnored) {
			s.Ignored++
		}
	})
	return in, err
}

// handle applies a batch and settles each of its messages. It waits as long as
// the database is away; when ctx ends meanwhile, the messages go back.
func (r *runner) handle(ctx context.Context, b *batch) {
	for _, rej := range b.rejects {
		r.settler.bury(rej.msg, nil, rej.entity, rej.cause.reason, rej.cause.err) //nolint:contextcheck // the work outlives ctx by the drain: see runner.work
	}
	if len(b.unfit) > 0 && r.reread(r.work) { //nolint:contextcheck // the work outlives ctx by the drain: see runner.work
		for _, f := range b.unfit {
			b.again.messages = append(b.again.messages, f.in)
		}
		b.unfit = nil
	}
	for _, f := range b.unfit {
		r.settler.fail(f) //nolint:contextcheck // the work outlives ctx by the drain: see runner.work
	}
	r.handlePart(ctx, b.fresh)
	r.handlePart(ctx, b.again)
}

func (r *runner) handlePart(ctx context.Context, p part) {
	if len(p.messages) == 0 {
		return
	}
	res, ok := r.apply(ctx, p)
	if !ok {
		for _, in := range p.messages {
			in.msg.Nack()
		}
		return
	}
	for _, f := range res.failures {
		f.in.failed = true
	}
	for _, in := range p.messages {
		if !in.failed {
			in.msg.Ack()
		}
	}
	var again part
	if len(res.failures) > 0 && r.reread(r.work) { //nolint:contextcheck // the work outlives ctx by the drain: see runner.work
		for _, f := range res.failures { // it may fit now
			again.messages = append(again.messages, f.in)
		}
		res.failures = nil
	}
	for _, f := range res.failures {
		if !r.parking.park(f) {
			r.settler.fail(f) //nolint:contextcheck // the work outlives ctx by the drain: see runner.work
		}
	}
	again.messages = append(again.messages, r.parking.wake(p.messages)...)
	for _, in := range again.messages {
		in.failed = false
	}
	r.handlePart(ctx, again)
}

// observe tells Config.Observe of the messages that a transaction has settled.
func (r *runner) observe(messages []*incoming, failures []failure, now time.Time) {
	if r.cfg.Observe == nil {
		return
	}
	failed := make(map[*incoming]bool, len(failures))
	for _, f := range failures {
		failed[f.in] = true
	}
	for _, in := range messages {
		if !failed[in] {
			r.cfg.Observe(in.ev.CQRSID, now.Sub(in.Updated))
		}
	}
}

// apply repeats a transaction until it stands. It returns false when ctx ended
// before that. Where the time of one transaction is not enough for the messages,
// they are applied in several.
func (r *runner) apply(ctx context.Context, p part) (result, bool) {
	var sum result
	outage := pause{runner: r, what: "database"}
	defer outage.leave()
	for conflicts := 0; ; {
		piece, rest := r.piece(p)
		piece, unfit := r.current(piece)
		sum.failures = append(sum.failures, unfit...)
		if p = (part{append(piece.messages, rest...), piece.plan}); len(p.messages) == 0 {
			return sum, true
		}
		if len(piece.messages) == 0 {
			continue
		}
		begin := time.Now()
		res, err := r.attempt(piece) //nolint:contextcheck // the work outlives ctx by the drain: see runner.work
		took := time.Since(begin)
		if err == nil {
			outage.over()
			r.committed(piece, res)
			r.quicker(len(piece.messages), took)
			sum.add(res.tally)
			sum.failures, sum.isolated = append(sum.failures, res.failures...), sum.isolated || res.isolated
			p, conflicts = part{messages: rest}, 0
			continue
		}
		if r.work.Err() != nil {
			return result{}, false
		}
		if took >= r.cfg.TransactionTimeout || r.cfg.StatementTimeout > 0 && dialect.Classify(err) == dialect.Canceled {
			r.most = max(len(piece.messages)/2, 1)
		}
		if dialect.Classify(err) == dialect.Conflict && conflicts < conflictAttempts {
			if !sleep(r.work, conflictBackoff(conflicts)) { //nolint:contextcheck // the work outlives ctx by the drain: see runner.work
				return result{}, false
			}
			conflicts++
			continue
		}
		if dialect.IsStale(err) && r.reread(r.work) { //nolint:contextcheck // the work outlives ctx by the drain: see runner.work
			continue
		}
		if !outage.wait(ctx, err) {
			return result{}, false
		}
	}
}

// piece parts what goes into the next transaction from the rest.
func (r *runner) piece(p part) (piece part, rest []*incoming) {
	if r.most == 0 || len(p.messages) <= r.most {
		return p, nil
	}
	return part{messages: slices.Clip(p.messages[:r.most])}, p.messages[r.most:]
}

// quicker lets transactions grow again when one of the most messages took little
// of its time, and of a statement's.
func (r *runner) quicker(messages int, took time.Duration) {
	limit := r.cfg.TransactionTimeout
	if r.cfg.StatementTimeout > 0 {
		limit = min(limit, r.cfg.StatementTimeout)
	}
	if r.most == 0 || messages < r.most || took > limit/4 {
		return
	}
	if r.most *= 2; r.most >= r.cfg.BatchSize {
		r.most = 0
	}
}

// committed counts and tells of a transaction that stands.
func (r *runner) committed(p part, res result) {
	now := r.cfg.Now()
	r.stats.committed(res, p.messages, now)
	r.observe(p.messages, res.failures, now)
	if res.downgraded > 0 {
		r.log.Warn("a SYNC lowered revisions", "rows", res.downgraded)
	}
}

func (r *runner) attempt(p part) (result, error) {
	ctx, cancel := context.WithTimeout(r.work, r.cfg.TransactionTimeout)
	defer cancel()
	return r.engine.apply(ctx, p.messages, p.plan)
}

// unknownEntity stands in the topic of dead letters whose CQRS ID is none of ours.
const unknownEntity = "unknown"
