// Package rabbitmq is Lockstep's RabbitMQ adapter: a Watermill publisher and subscriber with
// django-cqrs's topology (one durable topic exchange, one durable queue per replica, no arguments)
// and its message properties, so that Django and Go services can share an exchange and even a queue.
//
//	b, err := rabbitmq.Open(ctx, "amqp://guest:guest@localhost/?exchange=cqrs", rabbitmq.Config{})
//	…
//	err = b.Bind(ctx, "billing", "account", "cqrs.billing.account")
//	messages, err := b.Subscribe(ctx, "billing")
//	…
//	wait := b.PublishAsync(ctx, []string{"account"}, []*message.Message{msg})
//	errs := wait(ctx) // nil: RabbitMQ has taken the responsibility for all of them
//
// # What it guarantees
//
// A message counts as published only after RabbitMQ's confirm of that very message. Every message is
// sent persistent and mandatory, so a message for which no queue is bound is told apart: it is
// confirmed, and reported as [RefusedError] with Unroutable (but see Clusters). Messages reach the
// broker in the order of the calls. A message that makes RabbitMQ close the channel (too large, for
// one) is found by sending the doubtful ones again, and refused alone; the others are confirmed.
//
// The subscriber hands on up to Prefetch messages in the order of delivery without waiting for earlier
// acknowledgements, and acknowledges exactly what was acked.
//
// # What it does not
//
// A message whose confirm was lost with the connection may or may not have arrived; its sender is told
// of an outage and sends it again, so messages can repeat, and a repeated one can stand behind newer
// ones. Nacked and redelivered messages lose their place in the order.
//
// # Failure
//
// Publishing and consuming have a connection each, so that RabbitMQ's throttling of publishers never
// delays acknowledgements. A lost connection is dialled again in the background, for ever, at all hosts
// of the URL in turn; one that has gone silent is lost after about two heartbeats. The
// exchange and all bound queues are declared again before it is used. Every call that talks to the
// server ends within the confirm timeout (binding: twice that, once to find a connection and once to
// use it). An error is a [RefusedError] if it speaks of the message, [ErrClosed] after Close, and
// otherwise an outage, which says nothing about the message. A missing permission is an outage, too.
//
// # Clusters
//
// Quorum queues go on while most of their nodes are there. A classic queue lives on one node, by which
// it was first declared; while that is away, RabbitMQ keeps the queue's messages, takes no new ones for
// it, and says so to nobody: it drops them, and only if no other queue wants the message, it returns
// it. So a broadcast topic on which this Broker has had a message confirmed is not taken for one that
// nobody wants: a message that is returned is an outage then, and refused, not Unroutable, when that
// has lasted for half a minute. The same goes for messages that RabbitMQ nacks: it does so when a
// queue's node or leader ends, and when a queue is full that an operator has told to reject what it has
// no room for. More cannot be done from here: whoever wants nothing lost while nodes of a cluster are
// away needs quorum queues.
//
// # Quorum queues
//
// With QueueType "quorum" all queues but those of delays are replicated ones. RabbitMQ 4 drops a message
// from a quorum queue when it was given back 20 times; the adapter declares them without that limit,
// since the end of a consumer gives back all it holds. A queue that exists with a limit keeps it, which
// is logged; one of the other type is an error of [Broker.Bind].
//
// # Concurrency
//
// All methods of [Broker] are safe for concurrent use.
package rabbitmq
