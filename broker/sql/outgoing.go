package sql

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// What is stored by one statement.
const (
	maxParcels = 1000
	maxBytes   = 8 << 20
)

// call is one call of PublishAsync.
type call struct {
	parcels []parcel
	at      []int         // the parcels' places among the messages
	errs    []error       // one for each message; complete when done is closed
	done    chan struct{} // closed when all are stored or not

	failed bool // counted in outgoing.doubtful until its wait has returned
	left   bool // its wait has returned
}

func newCall(n int) *call { return &call{errs: make([]error, n), done: make(chan struct{})} }

// outgoing stores what the calls hand over, one statement after the other, so that their order is that
// of the calls.
type outgoing struct {
	b    *Broker
	wake chan struct{} // holds one token if there may be work

	mu       sync.Mutex
	calls    []*call       // in their order
	waiting  int           // messages in them
	changed  chan struct{} // closed and replaced when waiting falls
	doubtful int           // failed calls whose wait has not returned
}

func newOutgoing(b *Broker) *outgoing {
	return &outgoing{b: b, wake: make(chan struct{}, 1), changed: make(chan struct{})}
}

// send queues a call and returns its wait function.
func (o *outgoing) send(ctx context.Context, c *call) func(context.Context) []error {
	if len(c.parcels) == 0 {
		if o.b.isClosing() {
			c.fail(ErrClosed)
		}
		close(c.done)
	} else if err := o.enqueue(ctx, c); err != nil {
		c.fail(err)
		o.mu.Lock()
		o.doubt(c)
		o.mu.Unlock()
		close(c.done)
	}
	return func(ctx context.Context) []error { return o.wait(ctx, c) }
}

// fail says of all messages without an outcome why they were not stored.
func (c *call) fail(err error) {
	for i := range c.errs {
		if c.errs[i] == nil {
			c.errs[i] = err
		}
	}
}

func (o *outgoing) enqueue(ctx context.Context, c *call) error {
	timer := time.NewTimer(o.b.cfg.ConfirmTimeout)
	defer timer.Stop()
	for {
		o.mu.Lock()
		changed := o.changed
		switch {
		case o.b.isClosing():
			o.mu.Unlock()
			return ErrClosed
		case o.doubtful > 0:
			o.mu.Unlock()
			return ErrInDoubt
		case o.waiting == 0 || o.waiting+len(c.parcels) <= o.b.cfg.Window:
			o.calls = append(o.calls, c)
			o.waiting += len(c.parcels)
			o.mu.Unlock()
			select {
			case o.wake <- struct{}{}:
			default:
			}
			return nil
		}
		o.mu.Unlock()
		select {
		case <-changed:
		case <-o.b.closing:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrUnconfirmed, ctx.Err())
		case <-timer.C:
			return ErrUnconfirmed
		}
	}
}

// doubt counts a failed call whose wait has not returned. Callers hold mu.
func (o *outgoing) doubt(c *call) {
	if !c.left {
		c.failed = true
		o.doubtful++
	}
}

// wait returns the outcome of a call, for ConfirmTimeout at most.
func (o *outgoing) wait(ctx context.Context, c *call) []error {
	timer := time.NewTimer(o.b.cfg.ConfirmTimeout)
	defer timer.Stop()
	var late error
	select {
	case <-c.done:
	case <-ctx.Done():
		late = fmt.Errorf("%w: %w", ErrUnconfirmed, ctx.Err())
	case <-timer.C:
		late = ErrUnconfirmed
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	c.left = true
	if c.failed {
		c.failed = false
		o.doubtful--
	}
	select {
	case <-c.done: // perhaps since then
		late = nil
	default:
	}
	switch {
	case late != nil:
		return slices.Repeat([]error{late}, len(c.errs)) // c.errs is still being written
	case slices.ContainsFunc(c.errs, func(err error) bool { return err != nil }):
		return c.errs
	}
	return nil
}

// run stores calls until the Broker is closed, and ends the others then.
func (o *outgoing) run(ctx context.Context) {
	for {
		select {
		case <-o.wake:
		case <-o.b.closing:
			o.finish(o.takeAll(), ErrClosed)
			return
		}
		for !o.b.isClosing() {
			calls := o.take()
			if len(calls) == 0 {
				break
			}
			err := o.store(ctx, calls)
			if err != nil {
				// What was queued behind must not overtake what has to be sent again.
				calls = append(calls, o.takeAll()...)
			}
			o.finish(calls, err)
		}
	}
}

// take returns the next calls that fit into one statement, at least one if there is any. They count as
// waiting until they are finished.
func (o *outgoing) take() []*call {
	o.giveUp()
	o.mu.Lock()
	defer o.mu.Unlock()
	n, parcels := 0, 0
	for n < len(o.calls) && (n == 0 || parcels+len(o.calls[n].parcels) <= maxParcels) {
		parcels += len(o.calls[n].parcels)
		n++
	}
	calls := slices.Clone(o.calls[:n])
	o.calls = slices.Delete(o.calls, 0, n)
	return calls
}

// giveUp drops a call that nobody waits for any more, for it will be sent again, and with it what was
// queued behind: that must not overtake it.
func (o *outgoing) giveUp() {
	o.mu.Lock()
	at := slices.IndexFunc(o.calls, func(c *call) bool { return c.left })
	if at < 0 {
		o.mu.Unlock()
		return
	}
	calls := slices.Clone(o.calls[at:])
	o.calls = slices.Delete(o.calls, at, len(o.calls))
	o.mu.Unlock()
	o.finish(calls, ErrInDoubt)
}

func (o *outgoing) takeAll() []*call {
	o.mu.Lock()
	defer o.mu.Unlock()
	calls := o.calls
	o.calls = nil
	return calls
}

// finish gives the calls their outcome: err for all messages that have none of their own and were not
// stored.
func (o *outgoing) finish(calls []*call, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range calls {
		if err != nil {
			for i, at := range c.at {
				if c.errs[at] == nil && !c.parcels[i].settled {
					c.errs[at] = err
				}
			}
			o.doubt(c)
		}
		o.waiting -= len(c.parcels)
		close(c.done)
	}
	close(o.changed)
	o.changed = make(chan struct{})
}

// store stores the messages of calls in their order. An error is an outage: those that are not marked
// as stored by then are in doubt.
func (o *outgoing) store(ctx context.Context, calls []*call) error {
	var parcels []*parcel
	var outcome []*error
	for _, c := range calls {
		for i := range c.parcels {
			parcels, outcome = append(parcels, &c.parcels[i]), append(outcome, &c.errs[c.at[i]])
		}
	}
	for len(parcels) > 0 {
		n, size := 0, 0
		for n < len(parcels) && n < maxParcels && (n == 0 || size+parcels[n].size() <= maxBytes) {
			size += parcels[n].size()
			n++
		}
		if err := o.storeSome(ctx, parcels[:n], outcome[:n]); err != nil {
			return err
		}
		parcels, outcome = parcels[n:], outcome[n:]
	}
	return nil
}

// storeSome stores messages by one statement. If PostgreSQL does not take the values, they are stored
// one by one, and those to blame are refused.
func (o *outgoing) storeSome(ctx context.Context, parcels []*parcel, outcome []*error) error {
	unbound, err := o.b.insert(ctx, parcels)
	switch {
	case aboutTheData(err) && len(parcels) > 1:
		for i := range parcels {
			if err := o.storeSome(ctx, parcels[i:i+1], outcome[i:i+1]); err != nil {
				return err
			}
		}
		return nil
	case aboutTheData(err):
		*outcome[0] = &RefusedError{Topic: parcels[0].topic, UUID: parcels[0].uuid, Reason: err}
		return nil
	case err != nil:
		if o.b.isClosing() {
			err = errors.Join(ErrClosed, err)
		}
		return outage("store messages", err)
	}
	for _, n := range unbound {
		*outcome[n] = &RefusedError{Topic: parcels[n].topic, UUID: parcels[n].uuid, Reason: errUnbound, unroutable: true}
	}
	for _, p := range parcels {
		p.settled = true
	}
	return nil
}
