package relay

import "sync"

// pauses are what of a relay's work waits for a broker or a database. That is said once
// when the first begins to, and once when all goes on. The zero value is ready.
type pauses struct {
	mu sync.Mutex
	of map[share]struct{}
}

// nowhere stands for the work of a relay that has none at present.
var nowhere share

// pause notes that the work on a share waits.
func (r *Relay) pause(of share, err error) {
	p := &r.pauses
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of == nil {
		p.of = map[share]struct{}{}
	}
	if len(p.of) == 0 {
		r.stats.pauses.Add(1)
		r.log.Warn("paused: the outbox keeps what is pending", keyError, err)
	}
	p.of[of] = struct{}{}
}

// resumed notes that the work on a share goes on, which says nothing about the others.
func (r *Relay) resumed(of share) {
	p := &r.pauses
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.of) == 0 {
		return
	}
	delete(p.of, of)
	delete(p.of, nowhere)
	if len(p.of) == 0 {
		r.log.Info("resumed")
	}
}

// left notes that a share is not this relay's any more. What it waited for may still be away.
func (r *Relay) left(of share) {
	p := &r.pauses
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, waits := p.of[of]; waits {
		delete(p.of, of)
		p.of[nowhere] = struct{}{}
	}
}
