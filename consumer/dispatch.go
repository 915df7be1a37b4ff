package consumer

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// Bounds of what waits for a worker. The broker's prefetch count should be
// reached first; where it has none, the consumer takes no more.
const (
	maxWaiting      = 10_000
	maxWaitingBytes = 64 << 20
)

// dispatcher hands the events for handlers to workers: those of one key one at a
// time, in the order of arrival, and the keys in turns.
type dispatcher struct {
	*runner
	ctx     context.Context //nolint:containedctx // Run's: its end gives back what waits
	workers sync.WaitGroup

	mu      sync.Mutex
	changed *sync.Cond
	lanes   map[foldKey]*lane
	ready   []*lane // with an event to do and no worker
	held    []*lane // the same, but their entity is paused
	count   int     // events waiting
	bytes   int
	busy    map[*incoming]bool
	left    []*incoming // that were with a worker when the run's time was over
	stopped bool
}

// lane is a key with its waiting events.
type lane struct {
	key     foldKey
	waiting []*incoming
}

func newDispatcher(ctx context.Context, r *runner) *dispatcher {
	d := &dispatcher{runner: r, ctx: ctx, lanes: make(map[foldKey]*lane), busy: make(map[*incoming]bool)}
	d.changed = sync.NewCond(&d.mu)
	return d
}

// start starts the workers, and whatever ends them.
func (d *dispatcher) start() {
	for range d.cfg.Workers {
		d.workers.Go(d.worker)
	}
	d.workers.Go(d.watch)
}

// watch wakes the workers when an entity is resumed or the run is over.
func (d *dispatcher) watch() {
	for {
		_, resumed := d.pauses.holds("")
		d.unhold()
		select {
		case <-resumed:
		case <-d.ctx.Done():
			d.stop()
			return
		}
	}
}

// add puts an event behind those of its key. It waits while too many wait.
func (d *dispatcher) add(in *incoming) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for !d.stopped && (d.count >= maxWaiting || d.bytes >= maxWaitingBytes) {
		d.changed.Wait()
	}
	if d.stopped {
		in.msg.Nack()
		return
	}
	d.count++
	d.bytes += len(in.msg.Payload)
	key := in.foldKey()
	l := d.lanes[key]
	if l == nil {
		l = &lane{key: key}
		d.lanes[key] = l
		d.ready = append(d.ready, l)
	}
	l.waiting = append(l.waiting, in)
	d.changed.Broadcast()
}

// next waits for a lane with an event to do. It returns nil at the end.
func (d *dispatcher) next() (*lane, *incoming) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for !d.stopped {
		if len(d.ready) == 0 {
			d.changed.Wait()
			continue
		}
		l := d.ready[0]
		d.ready[0] = nil
		d.ready = d.ready[1:]
		if paused, _ := d.pauses.holds(l.key.to.id); paused {
			d.held = append(d.held, l)
			continue
		}
		in := l.waiting[0]
		l.waiting[0] = nil
		l.waiting = l.waiting[1:]
		d.count--
		d.bytes -= len(in.msg.Payload)
		d.busy[in] = true
		d.changed.Broadcast()
		return l, in
	}
	return nil, nil
}

// done puts a lane at the end of the line, or away when nothing waits in it.
func (d *dispatcher) done(l *lane, in *incoming) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.busy, in)
	if len(l.waiting) == 0 {
		delete(d.lanes, l.key)
		return
	}
	d.ready = append(d.ready, l)
	d.changed.Broadcast()
}

func (d *dispatcher) unhold() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ready = append(d.held, d.ready...)
	d.held = nil
	d.changed.Broadcast()
}

// stop gives back all that waits and lets the workers end.
func (d *dispatcher) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopped = true
	for _, l := range d.lanes {
		for _, in := range l.waiting {
			in.msg.Nack()
		}
		l.waiting = nil
	}
	d.changed.Broadcast()
}

// wait returns when all workers have ended, or names the events that they cannot
// finish when the run's time is over.
func (d *dispatcher) wait() []*incoming {
	ended := make(chan struct{})
	go func() {
		d.workers.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-d.work.Done():
		grace := time.NewTimer(2 * goesOn) // what call waits for, and a rollback
		defer grace.Stop()
		select {
		case <-ended:
		case <-grace.C:
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.AppendSeq(d.left, maps.Keys(d.busy))
}

func (d *dispatcher) worker() {
	for {
		l, in := d.next()
		if in == nil {
			return
		}
		d.do(in)
		d.done(l, in)
	}
}

// giveUp gives an event back because the run is over.
func (d *dispatcher) giveUp(in *incoming) {
	if d.work.Err() != nil {
		d.mu.Lock()
		d.left = append(d.left, in)
		delete(d.busy, in)
		d.mu.Unlock()
	}
	in.msg.Nack()
}

// do brings one event to its end: acknowledged, in the settler's hands, or given
// back because the run is over.
func (d *dispatcher) do(in *incoming) {
	_, ok, err := d.repeat(d.ctx, in)
	switch {
	case !ok:
		d.giveUp(in)
	case err != nil:
		d.settler.fail(failure{in, err})
	default:
		in.msg.Ack()
	}
}
