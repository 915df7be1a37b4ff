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
	oldest  time.Time // change in the master; zero when none is parked
	asked   time.Time // when the database was asked last
	timer   *time.Timer
}

// parked is a message that waits for a row.
type parked struct {
	failure
	until time.Time
	// rest is what is left of its delay then.
	rest time.Duration
	// rows are those of replicas here that it refers to.
	rows  []foldKey
	woken bool
	// found: the database said that it has all it refers to. If it fails all the
	// same, there is no use in asking again.
	found bool
	// paused: its entity was when its time was over.
	paused bool
}

func newParking(r *runner) *parking {
	return &parking{runner: r, waiting: make(map[foldKey][]*parked)}
}

// park takes a failed message in. It returns false when it is none that waits for
// a row, has no attempt left, or finds no room.
func (p *parking) park(f failure) bool {
	if !dialect.IsMissingParent(f.err) || len(p.list) >= p.cfg.MaxParked || p.bytes+len(f.in.msg.Payload) > maxParkedBytes {
		return false
	}
	parents := f.in.refersTo()
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
	entry.failure, entry.woken, entry.rows = f, false, nil
	for _, parent := range parents {
		if row, ok := parent.row(f.in); ok {
			entry.rows = append(entry.rows, row)
			p.waiting[row] = append(p.waiting[row], entry)
		}
	}
	if len(p.list) == 0 {
		p.asked = time.Now()
	}
	p.list = append(p.list, entry)
	p.bytes += len(f.in.msg.Payload)
	p.ages(entry)
	p.count()
	return true
}

// wake takes out the messages that waited for one of those applied, in the order
// of their arrival.
func (p *parking) wake(applied []*incoming) []*incoming {
	if len(p.list) == 0 {
		return nil
	}
	for _, in := range applied {
		if in.failed || in.signal == event.Delete {
			continue
		}
		for _, entry := range p.waiting[in.foldKey()] {
			entry.woken = true
		}
	}
	return p.wakened()
}

// wakened takes out the messages that are woken, but for those of paused entities,
// of which the database is asked.
func (p *parking) wakened() (woken []*incoming) {
	for _, entry := range p.take(func(entry *parked) bool { return entry.woken && !p.isPaused(entry) }) {
		entry.in.failed = false
		woken = append(woken, entry.in)
	}
	return woken
}

func (p *parking) isPaused(entry *parked) bool {
	paused, _ := p.pauses.holds(entry.in.ev.CQRSID)
	return paused
}

// due returns what is ready when a message has been parked for long enough, or the
// database is to be asked.
func (p *parking) due() <-chan time.Time {
	if len(p.list) == 0 {
		return nil
	}
	first := slices.MinFunc(p.list, func(a, b *parked) int { return a.until.Compare(b.until) })
	wait := time.Until(first.until)
	if ask := time.Until(p.asked.Add(p.askEvery)); ask < wait {
		wait = ask
	}
	if p.timer == nil {
		p.timer = time.NewTimer(wait)
	} else {
		p.timer.Reset(wait)
	}
	return p.timer.C
}

// release makes failed attempts of those that have been parked for long enough. A
// pause of their entity is no time to pay for, and the database is asked after it.
func (p *parking) release() {
	now := time.Now()
	for _, entry := range p.list {
		if entry.until.After(now) {
			continue
		}
		if paused := p.isPaused(entry); paused || entry.paused {
			entry.until, entry.paused = now.Add(2*p.askEvery), paused
		}
	}
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
		for _, row := range entry.rows {
			others := slices.DeleteFunc(p.waiting[row], func(other *parked) bool { return other == entry })
			if p.waiting[row] = others; len(others) == 0 {
				delete(p.waiting, row)
			}
		}
		return true
	})
	if len(taken) > 0 {
		p.oldest = time.Time{}
		p.ages(p.list...)
		p.count()
	}
	return taken
}

// ages notes the oldest of those parked, of which these are new.
func (p *parking) ages(entries ...*parked) {
	for _, entry := range entries {
		if p.oldest.IsZero() || entry.in.Updated.Before(p.oldest) {
			p.oldest = entry.in.Updated
		}
	}
}

func (p *parking) count() {
	n := int64(len(p.list))
	p.stats.add(func(s *Stats) { s.Parked, s.ParkedSince = n, p.oldest })
}

// say tells of a parked message, though not of every one where many are.
func (p *parking) say(f failure) {
	text := oneLine(f.err.Error(), maxHeaderError)
	if show, hidden := p.parkings.allow(f.in.ev.CQRSID, time.Now()); show {
		p.log.Info("a message waits for the row it refers to", logEntity, f.in.String(), logError, text, "not_shown", hidden)
	}
}
