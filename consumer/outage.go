package consumer

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// outages are what is away at present. Several goroutines may wait for the same; that is
// said once when the first begins to, and once when it is known to be over: the last who
// waited got through, or somebody did after all had given up. The zero value is ready.
type outages struct {
	saying sync.Mutex  // held while one begins or ends, so that it is said in that order
	left   atomic.Bool // one lasts, as far as is known, and nobody waits for it

	mu  sync.Mutex
	all map[string]*outage
}

// outage is one of them.
type outage struct {
	since   time.Time
	waiting int
	last    error
}

// begin counts one who waits, and says so if nobody else has said it.
func (o *outages) begin(what string, err error, say func()) {
	o.saying.Lock()
	defer o.saying.Unlock()
	if o.wait(what, err) {
		say()
	}
}

func (o *outages) wait(what string, err error) (first bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.all == nil {
		o.all = make(map[string]*outage)
	}
	if o.all[what] == nil {
		o.all[what], first = &outage{since: time.Now()}, true
	}
	o.all[what].waiting++
	o.all[what].last = err
	return first
}

// end notes that something is there, as one saw who had waited for it or not, and says so
// if that ends an outage.
func (o *outages) end(what string, waited bool, say func()) {
	if !waited && !o.left.Load() {
		return
	}
	o.saying.Lock()
	defer o.saying.Unlock()
	if o.over(what, waited) {
		say()
	}
}

func (o *outages) over(what string, waited bool) (last bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	one := o.all[what]
	if one == nil {
		return false
	}
	if waited {
		one.waiting--
	}
	if last = one.waiting == 0; last {
		delete(o.all, what)
	}
	o.note()
	return last
}

// leave takes back a wait whose outage is not known to be over.
func (o *outages) leave(what string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if one := o.all[what]; one != nil {
		one.waiting--
		o.note()
	}
}

// note sees whether an outage is left. Callers hold mu.
func (o *outages) note() {
	left := false
	for _, one := range o.all {
		left = left || one.waiting == 0
	}
	o.left.Store(left)
}

// forget forgets all outages that Run did not live to see the end of.
func (o *outages) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	clear(o.all)
	o.left.Store(false)
}

// lasts reports whether something is away, as far as is known.
func (o *outages) lasts(what string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all[what] != nil
}

// since returns when the first outage began that somebody waits for; zero: nobody waits.
func (o *outages) since() (first time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, one := range o.all {
		if one.waiting > 0 && (first.IsZero() || one.since.Before(first)) {
			first = one.since
		}
	}
	return first
}

// lasting returns the error of an outage that is not known to be over, the newest one's.
func (o *outages) lasting() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	newest := &outage{}
	for _, one := range o.all {
		if one.since.After(newest.since) {
			newest = one
		}
	}
	return newest.last
}

// pause is one goroutine's wait for what is away. Whoever has one leaves it at the end.
type pause struct {
	*runner
	what    string
	attempt int
}

// wait waits before the next attempt, and returns false when ctx ended.
func (p *pause) wait(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	if p.attempt == 0 {
		p.outages.begin(p.what, err, func() {
			p.stats.add(func(s *Stats) { s.Pauses++ })
			p.log.Warn("waiting for the "+p.what, logError, err)
		})
	}
	d := outageBackoff(p.attempt)
	p.attempt++
	p.log.Debug("still waiting for the "+p.what, logWait, d, logError, err)
	return sleep(ctx, d)
}

// over notes that what was waited for, or was there at once, works.
func (p *pause) over() {
	waited := p.attempt > 0
	p.attempt = 0
	p.outages.end(p.what, waited, func() { p.log.Info("the " + p.what + " works again") })
}

// leave gives up a wait that is not over.
func (p *pause) leave() {
	if p.attempt > 0 {
		p.outages.leave(p.what)
		p.attempt = 0
	}
}
