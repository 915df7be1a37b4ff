package jetstream

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// acks keeps account of what was sent on a session and is not confirmed yet.
//
// Each message asks for its confirmation on a reply subject that ends in a
// number. The messages of a call have consecutive numbers, so a confirmation
// finds its message by a search among the few calls under way, and a call of a
// thousand messages costs no map entry, channel or timer for each of them.
type acks struct {
	prefix string // of the reply subjects
	window int
	doubt  func() // told, with mu held, when a message is in doubt that others may follow

	mu      sync.Mutex
	err     error   // why nothing can be sent any more
	next    uint64  // number of the next message
	calls   []*call // with unsettled messages, in the order of their numbers
	pending int     // messages sent and not settled
	bytes   int     // their bodies
	room    chan struct{}
	waiting int // who waits for room
}

// call is one PublishAsync call. The mutex of acks guards all but done.
type call struct {
	items []item
	first uint64 // number of items[0]
	open  int    // unsettled items
	errs  []error
	done  chan struct{} // closed when open is 0
}

// item is one message on its way.
type item struct {
	topic, uuid string
	msg         nats.Msg
	state       itemState
}

type itemState uint8

const (
	unsent itemState = iota
	sent
	settled
)

// newCall returns a call of n items, to be filled in before it is enrolled.
func newCall(n int) *call {
	c := &call{items: make([]item, n), open: n, done: make(chan struct{})}
	if n == 0 {
		close(c.done)
	}
	return c
}

// open subscribes to the confirmations.
func (a *acks) open(nc *nats.Conn, window int, doubt func()) error {
	a.prefix = nc.NewInbox() + "."
	a.window = window
	a.doubt = doubt
	a.room = make(chan struct{})
	sub, err := nc.Subscribe(a.prefix+"*", a.receive)
	if err != nil {
		return err
	}
	return sub.SetPendingLimits(-1, -1) // Window is the limit
}

// receive settles the message that a confirmation is about.
func (a *acks) receive(m *nats.Msg) {
	id, err := strconv.ParseUint(m.Subject[len(a.prefix):], 36, 64)
	if err != nil {
		return
	}
	err = verdict(m)
	a.mu.Lock()
	defer a.mu.Unlock()
	c, i := a.find(id)
	if c == nil {
		return
	}
	if err != nil {
		err = outcome(c.items[i].topic, c.items[i].uuid, err)
	}
	if isOutage(err) {
		a.doubt() // before the call can have its outcome and be over
	}
	a.settle(c, i, err)
}

// verdict reads a confirmation. The usual one, {"stream":"cqrs","seq":7}, is
// told without decoding it.
func verdict(m *nats.Msg) error {
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		return nats.ErrNoResponders
	}
	if bytes.HasPrefix(m.Data, []byte(`{"stream":`)) && !bytes.Contains(m.Data, []byte(`"error"`)) {
		return nil
	}
	var reply struct {
		Error  *jetstream.APIError `json:"error"`
		Stream string              `json:"stream"`
	}
	if err := json.Unmarshal(m.Data, &reply); err != nil || (reply.Error == nil && reply.Stream == "") {
		return fmt.Errorf("%w: unknown answer of the server", ErrUnconfirmed)
	}
	if reply.Error != nil {
		return reply.Error
	}
	return nil
}

// find returns the call and the index of a message by its number, or nil if
// nobody waits for it any more.
func (a *acks) find(id uint64) (*call, int) {
	at, exact := slices.BinarySearchFunc(a.calls, id, func(c *call, id uint64) int { return cmp.Compare(c.first, id) })
	if !exact {
		at--
	}
	if at < 0 || id-a.calls[at].first >= uint64(len(a.calls[at].items)) {
		return nil, 0
	}
	return a.calls[at], int(id - a.calls[at].first) //nolint:gosec // below len(items)
}

// settle notes the outcome of one message, once. Callers hold mu.
func (a *acks) settle(c *call, i int, err error) {
	it := &c.items[i]
	if it.state == settled {
		return
	}
	if it.state == sent {
		a.pending--
		a.bytes -= len(it.msg.Data)
		a.wake()
	}
	it.state = settled
	if err != nil {
		if c.errs == nil {
			c.errs = make([]error, len(c.items))
		}
		c.errs[i] = err
	}
	if c.open--; c.open == 0 {
		if at := slices.Index(a.calls, c); at >= 0 {
			a.calls = slices.Delete(a.calls, at, at+1)
		}
		close(c.done)
	}
}

// wake lets waiting callers try again when a quarter of the window is free, so
// that they send in runs. Callers hold mu.
func (a *acks) wake() {
	if a.waiting > 0 && a.pending <= a.window*3/4 && a.bytes <= maxBytesOnTheWay*3/4 {
		close(a.room)
		a.room = make(chan struct{})
		a.waiting = 0
	}
}

// enroll gives the call its numbers.
func (a *acks) enroll(c *call) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return a.err
	}
	c.first = a.next
	a.next += uint64(len(c.items))
	if c.open > 0 {
		a.calls = append(a.calls, c)
	}
	return nil
}

// reserve marks a run of messages, from index i on, as sent and returns its
// end. It blocks until the window has room for at least one.
func (a *acks) reserve(ctx context.Context, c *call, i int) (int, error) {
	for {
		a.mu.Lock()
		if a.err != nil {
			a.mu.Unlock()
			return i, a.err
		}
		j := a.run(c, i)
		if j > i {
			a.mu.Unlock()
			return j, nil
		}
		a.waiting++
		room := a.room
		a.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return i, fmt.Errorf("%w: window is full: %w", ErrUnconfirmed, context.Cause(ctx))
		}
	}
}

// run reserves what fits. One message always fits into an empty window.
// Callers hold mu.
func (a *acks) run(c *call, i int) int {
	for ; i < len(c.items); i++ {
		it := &c.items[i]
		if it.state == settled {
			continue
		}
		size := len(it.msg.Data)
		if a.pending > 0 && (a.pending >= a.window || a.bytes+size > maxBytesOnTheWay) {
			break
		}
		it.state = sent
		a.pending++
		a.bytes += size
	}
	return i
}

// settleOne notes the outcome of one message.
func (a *acks) settleOne(c *call, i int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.settle(c, i, err)
}

// settleFrom gives all messages of a call from index i on the same outcome,
// unless they have one.
func (a *acks) settleFrom(c *call, i int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for ; i < len(c.items); i++ {
		a.settle(c, i, err)
	}
}

// fail settles everything with an error, for good.
func (a *acks) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return
	}
	a.err = err
	for _, c := range slices.Clone(a.calls) {
		for i := range c.items {
			a.settle(c, i, err)
		}
	}
	if a.waiting > 0 {
		close(a.room)
		a.room = make(chan struct{})
		a.waiting = 0
	}
}
