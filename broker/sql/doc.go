// Package sql is Lockstep's broker on PostgreSQL, for teams that have no other: Watermill's own
// watermill-sql, with the schema, offsets and transactions that Lockstep's guarantees need.
//
//	b, err := sql.Open(ctx, "postgres://relay:password@db.internal/broker", sql.Config{})
//	if err != nil { … }
//	defer b.Close()
//	err = b.Bind(ctx, "billing", event.QueueTopics("billing", "account")...)
//	err = b.Publish("account", message.NewMessage(watermill.NewUUID(), body))
//	messages, err := b.Subscribe(ctx, "billing")
//
// It costs the database more than a message costs RabbitMQ or JetStream, and is as correct. All services that
// exchange events name the same database, which may, and need not, be one that a service works with.
//
// # How it works
//
// Four tables stand in a schema of their own ("lockstep_broker" unless [Config.Schema] says otherwise):
// queues, bindings, messages and consumers. [Open] makes them if they are missing; [Tables] is the SQL for
// databases where the broker's role may not.
//
// To publish is one INSERT, through watermill-sql's publisher: it stores a message once for every queue
// that is bound to its topic, for up to a thousand messages at a time, and returns those that no queue is
// bound for. Calls of PublishAsync that come while one statement runs share the next one.
//
// To subscribe is to run watermill-sql's subscriber with a schema of ours. Its stock queue schema keeps a
// transaction open while a message is in a consumer's hands. Here the subscriber reads as many
// messages as the prefetch has room for, marks them as held by this subscription, and commits, within
// milliseconds; only then are they handed on. An acknowledgement deletes the row, a Nack takes the mark
// away. The mark is worth something for as long as the subscription's row in consumers is kept alive;
// after that, any process that has the broker open takes the mark away, and the message comes again. So no
// transaction is open while anyone waits, and acknowledgements may come in any order.
//
// # What it guarantees
//
// A message counts as published when it is on the server's disk (and on its synchronous standbys, if
// there are any), also where synchronous_commit is off by default. Messages enter a queue in the order of
// the PublishAsync calls of a Broker. When storing fails, what was queued behind fails too, and nothing
// more is sent until every failed call's wait has returned, so that nothing overtakes a lost message.
//
// A subscription hands on messages in the order in which they entered the queue, also after its connection
// was lost: what it had read and may hold without knowing it comes before anything later. If the server does
// not notice the loss itself, reading waits for that, for [Config.Lease] at most. An acknowledged message
// has gone for good once its deletion has committed, which follows the Ack within milliseconds; if the
// process dies in between it comes again. Delivery is at least once.
//
// A message that is too large or malformed is refused for good, alone; see [RefusedError]. One that no queue
// is bound for is told apart. Anything else is an outage, which says nothing about the message.
//
// # What is weaker than with RabbitMQ
//
//   - Speed. Every message is written three times for each queue (stored, held, deleted) and leaves two dead
//     rows to autovacuum, which the messages table is set for. docs/operations.md has figures.
//   - Latency. Nobody is told of a new message: an idle subscription looks every [Config.Poll].
//   - A dead process is noticed by its lease, after [Config.Lease], not by its connection. Its messages
//     come again then, at their old places.
//   - Order between Brokers that publish side by side is that of their offsets, and a message that commits late
//     with a lower offset is handed on after higher ones. Relays never publish one key side by side. As
//     everywhere, several consumers of one queue, nacked and repeated messages do not keep a key's order;
//     replicas go by revision.
//   - A transaction left open anywhere in the same server's database does not stop delivery, but keeps dead
//     rows from being removed. Reading starts behind those it has seen, and looks at the whole queue the
//     seldomer the longer that takes; still, such a transaction should not stay for hours.
//   - Every subscription and every publishing process polls, stores and deletes with connections of its own, up
//     to ten a Broker. The connections must be sessions: PgBouncer's transaction pooling does not fit.
//
// # Delays and expiry
//
// [Broker.PublishAfter] stores the message in the queues that are bound at that moment, held by the clock.
// Whoever subscribes to any queue frees those that are due, every tenth of a second, by the database's
// clock. event.MetadataTTL becomes a time of expiry, after which a message is not handed on any more; expired
// ones are deleted within seconds while anybody has the broker open.
//
// # Names and metadata
//
// Queues and topics have any name of up to 512 bytes. The UUID and the metadata are text: bytes that are
// no UTF-8 are refused in a UUID and replaced by U+FFFD in metadata.
//
// # Failure
//
// Every call ends within [Config.ConfirmTimeout], publishing within twice that. A server that has been
// frozen or cut off is given up after that time, too; the locks of a process that has been frozen end after
// [Config.Lease], those of binding and deleting after ConfirmTimeout. Lost connections are made again,
// for ever. Errors and logs never contain a password.
//
// A [Broker] is safe for concurrent use.
package sql
