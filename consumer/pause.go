package consumer

import (
	"fmt"
	"sync"
)

// pauses are the entities whose messages wait at present.
type pauses struct {
	mu      sync.Mutex
	paused  map[string]bool
	resumed chan struct{} // closed and replaced by Resume
}

func newPauses() pauses {
	return pauses{paused: map[string]bool{}, resumed: make(chan struct{})}
}

// holds reports whether an entity is paused, and what is closed when any is
// resumed.
func (p *pauses) holds(cqrsID string) (bool, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.paused[cqrsID], p.resumed
}

// Pause stops applying the messages of an entity until [Consumer.Resume]; those
// that are being applied are finished, and those taken into a batch already. It
// does not wait for either.
//
// Its messages are taken from the broker and held, unacknowledged. So other
// entities go on until the broker's prefetch count (1001 by default) is held;
// then the queue stands still. When Run ends, they go back to the queue. A broker
// that limits the time of an acknowledgement, as RabbitMQ does to 30 minutes,
// takes them back after that and delivers them again; nothing is lost by it. For
// a pause that is to last, give the entity a queue of its own (see
// [Config.Entities]).
//
// It may be called at any time, and is no error when the entity is paused. A CQRS
// ID that is not registered is one.
func (c *Consumer) Pause(cqrsID string) error {
	if err := c.known(cqrsID); err != nil {
		return err
	}
	c.pauses.mu.Lock()
	defer c.pauses.mu.Unlock()
	c.pauses.paused[cqrsID] = true
	return nil
}

// Resume ends a pause: the messages that were held come first, in their order.
func (c *Consumer) Resume(cqrsID string) error {
	if err := c.known(cqrsID); err != nil {
		return err
	}
	c.pauses.mu.Lock()
	defer c.pauses.mu.Unlock()
	if c.pauses.paused[cqrsID] {
		delete(c.pauses.paused, cqrsID)
		close(c.pauses.resumed)
		c.pauses.resumed = make(chan struct{})
	}
	return nil
}

func (c *Consumer) known(cqrsID string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.entities {
		if e.id == cqrsID {
			return nil
		}
	}
	return fmt.Errorf("consumer: no entity %.60q is registered", cqrsID)
}
