// Package jetstream is Lockstep's broker on NATS JetStream: a remote server or
// cluster, or a server inside the process that keeps its files in a folder.
//
// A [Broker] behaves like an AMQP topic exchange with durable queues. The
// exchange is one stream with interest retention ("cqrs" unless
// [Config.Stream] says otherwise) and a queue is a durable pull consumer of
// it, so a message is stored once and kept until every queue that is bound to
// its topic has acknowledged it:
//
//	b, err := jetstream.Open(ctx, "jetstream+embedded:///var/lib/orders", jetstream.Config{})
//	if err != nil { … }
//	defer b.Close()
//	err = b.Bind(ctx, "billing", event.QueueTopics("billing", "account")...)
//	err = b.Publish("account", message.NewMessage(watermill.NewUUID(), body))
//	messages, err := b.Subscribe(ctx, "billing")
//
// # Names
//
// Topic "account" is subject "cqrs.account", topic "cqrs.billing.account" is
// "cqrs.cqrs.billing.account". Bytes that a subject cannot hold are written
// %XX. A queue's durable consumer bears the queue's name; bytes that such a
// name cannot hold are written =XX. Metadata travel as headers of the same
// name, the Watermill UUID as "_watermill_message_uuid"; metadata that cannot
// be a NATS header travel query-escaped in "Lockstep-Escaped".
//
// # What is promised
//
// A confirmed message has been stored by the stream. The embedded server hands
// each message to the operating system before it confirms it, so a confirmed
// message survives the death of the process (kill -9). It calls fsync once a
// second, so a power cut or a crash of the operating system may cost the last
// second; ?sync=always in the URL calls it before each confirmation instead,
// which is as slow as the disk, and ?sync=10s sets the interval.
// A remote server follows its own configuration (sync_interval).
//
// Messages reach the stream in the order of the PublishAsync calls and, within
// a call, of its slice. After a connection was lost or a confirmation is
// missing nothing more is sent until the wait function of every earlier call
// has returned, so that nothing overtakes a lost message unseen.
//
// Delivery is at least once. The Nats-Msg-Id header, by which a server drops
// repeated messages for two minutes, is left alone on purpose: a retry copy
// and a message that was sent again because no queue was bound bear the UUID
// of the first one and would be dropped.
//
// A new queue gets what is published after [Broker.Bind] has made it. A topic
// that is added to an existing queue may in addition bring messages of before,
// namely those that other queues still hold.
//
// # Messages that reach no queue
//
// The stream confirms and drops a message that no queue is bound to. Before it
// sends, a Broker therefore compares the topics with a list of the bindings
// that it fetched from the server; a topic that is not in it is looked up
// again, each time, and if it is still unbound, the message is not sent and
// fails with a [RefusedError] whose Unroutable is true. The list is up to 30
// seconds old, so only the removal of a queue (which Lockstep never does) can
// go unnoticed for that long. If the account may not list consumers, every
// topic counts as bound.
//
// # Delays, expiry, redelivery
//
// [Broker.PublishAfter] stores the message in the stream as a message schedule
// of the server, which publishes it when its time has come. The subject of
// schedules ("cqrs-delay.>") has a consumer of its own that nobody reads, for
// in a stream of this kind a message is only kept if somebody is interested.
// Due messages are up to a quarter of a second late. Whether the topic is
// bound is not checked: if it is not when the time has come, the message is
// gone.
//
// event.MetadataTTL becomes the server's expiry, whose unit is the second:
// it is rounded up. With PublishAfter it counts from the end of the delay.
//
// A message that is neither acknowledged nor renewed for [Config.AckWait] is
// delivered again. A Broker renews what it holds for as long as the
// subscription runs, so only the messages of a process that died or was cut
// off come again that way. Messages that are unacknowledged when the Broker is
// closed are given back at once.
//
// # Servers
//
// Needs nats-server 2.12 or later (message schedules, expiry per message).
// [Open] creates the stream if it is missing, never changes one that exists,
// and refuses one that could lose messages. An operator's needs the settings of
// Open's: retention interest, file storage, allow_msg_ttl, allow_msg_schedules.
//
// In a cluster, a stream and its queues are on Config.Replicas servers; with 3
// any one of them can go at any time. A connection that has gone silent is
// given up after 20 to 30 seconds, one that is lost is made again at another
// server. Messages that were on their way to a subscriber then come again after
// Config.AckWait, behind later ones; the order in the stream stays that of
// publishing. The first message of such a stream, on NAME-delay.anchor, belongs
// to nobody and must stay: it keeps servers that start from dropping messages
// that some queues still want. A stream of an earlier version, which lacks it,
// gets it from a connection that finds all servers there. What no Broker can
// prevent: a server that is shut down in good order while messages arrive may
// leave the last one out of its own copy (seen with nats-server 2.15.2), and a
// queue that is behind misses it if that server then leads the stream. Shut
// servers down while little is published and queues are short; relay diff finds
// what is missing all the same.
//
// A Broker is safe for concurrent use.
package jetstream
