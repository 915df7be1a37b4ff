package consumer

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// rereadEvery is the least time between two readings of the catalogue.
const rereadEvery = 10 * time.Second

// catalogue is what the database says about the registered tables. It is read at
// the start, and again when messages do not fit: a column may have been altered.
type catalogue struct {
	latest atomic.Pointer[map[string]*replica] // by CQRS ID; nil before the first reading

	mu   sync.Mutex
	next time.Time // not read again before
	said string    // the faults that were told of
}

func (c *catalogue) set(replicas map[string]*replica) { c.latest.Store(&replicas) }

// replicas returns the replicas by CQRS ID.
func (r *runner) replicas() map[string]*replica {
	if latest := r.catalogue.latest.Load(); latest != nil {
		return *latest
	}
	return nil
}

// reread reads the catalogue again, unless that was done just before, and reports
// whether the tables have changed since. Messages in hand are then brought up to
// date by [runner.current]. While something is wrong with the tables, what is
// known of them stays. It is for the goroutine that uses the engine.
func (r *runner) reread(ctx context.Context) (changed bool) {
	c := r.catalogue
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if now.Before(c.next) {
		return false
	}
	c.next = now.Add(r.rereadEvery)
	if err := r.engine.close(); err != nil { // constraints and plans may be others, too
		r.log.Debug("close prepared statements", logError, err)
	}
	replicas, faults, err := r.load(ctx)
	if err := errors.Join(faults, err); err != nil {
		if c.said != err.Error() {
			c.said = err.Error()
			r.log.Warn("the tables have changed and do not fit any more", logError, err)
		}
		return false
	}
	c.said = ""
	known := r.replicas()
	for id, to := range replicas {
		if to.entity.handler != nil {
			replicas[id] = known[id]
		} else if !to.same(known[id]) {
			changed = true
		}
	}
	if !changed {
		return false
	}
	for _, to := range known {
		to.outdated = to.entity.handler == nil
	}
	c.set(replicas)
	r.log.Info("the tables have changed: their columns were read again")
	return true
}

// same reports whether two readings of a table say the same.
func (r *replica) same(other *replica) bool {
	return slices.EqualFunc(r.parents, other.parents, parent.same) &&
		reflect.DeepEqual(r.Replica, other.Replica) && reflect.DeepEqual(r.wire, other.wire)
}

// current brings messages up to date that were read before the tables changed,
// and returns those that do not fit any more apart.
func (r *runner) current(p part) (part, []failure) {
	outdated := false
	for _, in := range p.messages {
		outdated = outdated || in.to.outdated
	}
	if !outdated {
		return p, nil
	}
	fit, unfit := part{}, []failure(nil)
	for _, in := range p.messages {
		in.to = r.replicas()[in.ev.CQRSID]
		if err := in.readData(); err != nil {
			unfit = append(unfit, failure{in, err})
			continue
		}
		fit.messages = append(fit.messages, in)
	}
	return fit, unfit
}
