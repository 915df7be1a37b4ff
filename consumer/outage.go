package consumer

import (
	"context"
	"sync"
)

// outages are what a run waits for at present. Several goroutines may wait for
// the same; that is said once.
type outages struct {
	mu      sync.Mutex
	waiting map[string]int
	last    error
}

// begin reports whether this is the first wait.
func (o *outages) begin(what string, err error) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.waiting == nil {
		o.waiting = make(map[string]int)
	}
	o.last = err
	o.waiting[what]++
	return o.waiting[what] == 1
}

// end reports whether this was the last wait.
func (o *outages) end(what string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waiting[what]--
	if o.waiting[what] > 0 {
		return false
	}
	o.last = nil
	return true
}

// leave takes back a wait whose outage is not over.
func (o *outages) leave(what string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waiting[what]--
}

// lasting returns the newest error of an outage that is not known to be over.
func (o *outages) lasting() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.last
}

// pause is one outage: said once when it begins and once when it is over.
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
	if p.attempt == 0 && p.outages.begin(p.what, err) {
		p.stats.paused()
		p.log.Warn("waiting for the "+p.what, logError, err)
	}
	d := outageBackoff(p.attempt)
	p.attempt++
	p.log.Debug("still waiting for the "+p.what, logWait, d, logError, err)
	if !sleep(ctx, d) {
		p.outages.leave(p.what)
		return false
	}
	return true
}

// over ends the outage, if there was one.
func (p *pause) over() {
	if p.attempt > 0 && p.outages.end(p.what) {
		p.stats.resumed()
		p.log.Info("the " + p.what + " works again")
	}
	p.attempt = 0
}
