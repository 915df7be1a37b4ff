package consumer

import (
	"slices"
	"time"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// Bounds of what is parked, beside [Config.MaxParked].
const (
	maxParkedBytes = maxBatchBytes
	// maxParkedTime is how long a message is parked at most; the rest of a longer
	// delay passes in the broker, which limits the time of an acknowledgement.
	maxParkedTime = time.Minute
)

// parking holds the messages whose rows refer to rows that have not arrived yet.
// They are applied when these arrive, and are failed attempts when their delay is
// over before that. It belongs to the goroutine that applies batches.
type parking struct {
	*runner
	list    []*parked // in the order of arrival
	waiting map[foldKey][]*parked
	bytes   int
	timer   *time.Timer
}

// parked is a message that waits for a row.
type parked struct {
	failure
	until time.Time
	// rest is what is left of its delay then.
	rest  time.Duration
	woken bool
}

func newParking(r *runner) *parking {
	return &parking{runner: r, waiting: make(map[foldKey][]*parked)}
}

// parent is a row of another replica that a column refers to.
type parent struct {
	slot int
	to   *replica
}

// parents returns the rows that a message's row refers to.
func (in *incoming) parents() []foldKey {
	if in.signal == event.Delete {
		return nil
	}
	var keys []foldKey
	for _, p := range in.to.parents {
		if value := in.values[p.slot]; !event.IsNull(value) {
			keys = append(keys, foldKey{p.to.entity, canonicalKey(&p.to.Key, value)})
		}
	}
	return keys
}

// park takes a failed message in. It returns false when it is none that waits for
// a row, has no attempt left, or finds no room.
func (p *parking) park(f failure) bool {
	if !dialect.IsMissingParent(f.err) || len(p.list) >= p.cfg.MaxParked || p.bytes+len(f.in.msg.Payload) > maxParkedBytes {
		return false
	}
	parents := f.in.parents()
	fate := f.in.decide(f.err, p.cfg.Now())
	if len(parents) == 0 || fate.reason != "" {
		return false
	}
	entry := f.in.parked
	if entry == nil {
		wait := min(fate.delay, maxParkedTime)
		entry = &parked{until: time.Now().Add(wait), rest: fate.delay - wait}
		f.in.parked = entry
		p.say(f)
	}
	entry.failure, entry.woken = f, false
	p.list = append(p.list, entry)
	p.bytes += len(f.in.msg.Payload)
	for _, key := range parents {
		p.waiting[key] = append(p.waiting[key], entry)
	}
	p.count()
	return true
}

// wake takes out the messages that waited for one of those applied, in the order
// of their arrival.
func (p *parking) wake(applied []*incoming) []*incoming {
	if len(p.list) == 0 {
		return nil
	}
	found := false
	for _, in := range applied {
		if in.failed || in.signal == event.Delete {
			continue
		}
		for _, entry := range p.waiting[foldKey{in.to.entity, in.key}] {
			entry.woken, found = true, true
		}
	}
	if !found {
		return nil
	}
	var woken []*incoming
	for _, entry := range p.take(func(entry *parked) bool { return entry.woken }) {
		woken = append(woken, entry.in)
	}
	return woken
}

// due returns what is ready when a message has been parked for long enough.
func (p *parking) due() <-chan time.Time {
	if len(p.list) == 0 {
		return nil
	}
	first := slices.MinFunc(p.list, func(a, b *parked) int { return a.until.Compare(b.until) })
	if p.timer == nil {
		p.timer = time.NewTimer(time.Until(first.until))
	} else {
		p.timer.Reset(time.Until(first.until))
	}
	return p.timer.C
}

// release makes failed attempts of those that have been parked for long enough.
func (p *parking) release() {
	now := time.Now()
	for _, entry := range p.take(func(entry *parked) bool { return !entry.until.After(now) }) {
		entry.in.parked = nil
		p.settler.retry(entry.in, entry.rest, entry.err)
	}
}

// giveBack returns all to the queue.
func (p *parking) giveBack() {
	for _, entry := range p.take(func(*parked) bool { return true }) {
		entry.in.msg.Nack()
	}
	if p.timer != nil {
		p.timer.Stop()
	}
}

// take removes entries and returns them.
func (p *parking) take(which func(entry *parked) bool) []*parked {
	var taken []*parked
	p.list = slices.DeleteFunc(p.list, func(entry *parked) bool {
		if !which(entry) {
			return false
		}
		taken = append(taken, entry)
		p.bytes -= len(entry.in.msg.Payload)
		for _, key := range entry.in.parents() {
			others := slices.DeleteFunc(p.waiting[key], func(other *parked) bool { return other == entry })
			if p.waiting[key] = others; len(others) == 0 {
				delete(p.waiting, key)
			}
		}
		return true
	})
	p.count()
	return taken
}

func (p *parking) count() {
	n := int64(len(p.list))
	p.stats.add(func(s *Stats) { s.Parked = n })
}

// say tells of a parked message, though not of every one where many are.
func (p *parking) say(f failure) {
	text := oneLine(f.err.Error(), maxHeaderError)
	if show, hidden := p.parkings.allow(f.in.ev.CQRSID, time.Now()); show {
		p.log.Info("a message waits for the row it refers to", logEntity, f.in.String(), logError, text, "not_shown", hidden)
	}
}
