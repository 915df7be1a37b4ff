package rabbitmq

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
)

// argDeliveryLimit says how often a quorum queue lets a message be given back before it drops it.
const argDeliveryLimit = "x-delivery-limit"

// noDeliveryLimit is the limit that is none. RabbitMQ knows it from version 4 on.
const noDeliveryLimit = -1

// unlimited returns the bindings with quorum queues that keep a message however often it is given back.
// RabbitMQ 4 drops it after 20 times unless the declaration says otherwise, and each end of a consumer
// gives back all that it holds: one that starts over and over while its database is away would lose
// messages. Earlier versions have no limit and do not know the value.
func unlimited(bindings []binding, version string) []binding {
	major, _, _ := strings.Cut(version, ".")
	if n, err := strconv.Atoi(major); err != nil || n < 4 {
		return bindings
	}
	bindings = slices.Clone(bindings)
	for i := range bindings {
		queue := &bindings[i].config.Queue
		if queue.Arguments[amqp.QueueTypeArg] != amqp.QueueTypeQuorum {
			continue
		}
		queue.Arguments = maps.Clone(queue.Arguments)
		queue.Arguments[argDeliveryLimit] = noDeliveryLimit
	}
	return bindings
}

// version is the server's, as it says itself.
func (c *conn) version() string {
	version, _ := c.Properties["version"].(string)
	return version
}

// declareKeeping declares bindings on c, quorum queues without a delivery limit where there may be one.
// A queue that exists with one keeps it; that is logged. It returns what was declared.
func (b *Broker) declareKeeping(c *conn, bindings []binding) ([]binding, error) {
	return b.declareFirst(c, unlimited(bindings, c.version()), bindings)
}

// declareFirst declares want or, if that is not what exists, settle.
func (b *Broker) declareFirst(c *conn, want, settle []binding) ([]binding, error) {
	try := func(bindings []binding) error {
		return b.declareOn(c, func(ch *amqp.Channel) error { return declare(ch, bindings) })
	}
	err := try(want)
	if !isMismatch(err) || slices.EqualFunc(want, settle, sameArguments) {
		return want, err
	}
	if err := try(settle); err != nil {
		return settle, err
	}
	b.cfg.Logger.Warn("rabbitmq: the quorum queue has a delivery limit, at which RabbitMQ drops messages: "+
		"let it run empty and delete it, it is then declared without one", keyQueue, settle[0].QueueName)
	return settle, nil
}

func sameArguments(x, y binding) bool {
	return maps.Equal(x.config.Queue.Arguments, y.config.Queue.Arguments)
}

// isMismatch reports whether something exists with other properties than it was declared with.
func isMismatch(err error) bool {
	var e *amqp.Error
	return errors.As(err, &e) && e.Server && e.Code == amqp.PreconditionFailed
}

// withQueueRemedy says what to do about a queue that exists with other properties.
func withQueueRemedy(err error) error {
	if !isMismatch(err) {
		return err
	}
	return fmt.Errorf("%w; a queue cannot change: all that declare it must give the same queue_type in the URL "+
		"(classic unless said otherwise), or let it run empty and delete it", err)
}
