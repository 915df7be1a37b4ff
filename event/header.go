package event

// Names of the message metadata (AMQP and NATS headers) that Lockstep adds.
// django-cqrs ignores them.
const (
	// HeaderEventID is the event's UUIDv7, or the UUID that a message of another
	// kind was published with. It equals the Watermill message's UUID and the AMQP
	// message id. Its presence tells a replica that the event comes from a Lockstep
	// master, whose revisions never restart.
	HeaderEventID = "lockstep-event-id"
	// HeaderOutboxID is the id of the outbox row the message was read from.
	HeaderOutboxID = "lockstep-outbox-id"
	// HeaderQueue is the one queue a direct SYNC is meant for.
	HeaderQueue = "lockstep-queue"
	// HeaderForce marks a SYNC that may lower a replica's revision. Its value is "1".
	HeaderForce = "lockstep-force"
	// HeaderTraceParent and HeaderTraceState carry the writer's span, as W3C Trace
	// Context has them.
	HeaderTraceParent = "traceparent"
	HeaderTraceState  = "tracestate"
	// HeaderReason says in one word why a message became a dead letter.
	HeaderReason = "lockstep-reason"
	// HeaderError is the text of the error that made a message a dead letter.
	HeaderError = "lockstep-error"
	// HeaderFailedAt is the time a message became a dead letter, RFC 3339 in UTC.
	HeaderFailedAt = "lockstep-failed-at"
)

// MetadataTTL is a message's remaining life in whole milliseconds. A broker
// adapter turns it into the broker's own expiry (AMQP's expiration property)
// and does not send it as a header.
const MetadataTTL = "lockstep-ttl"

// MetadataKey is the metadata member in which a message that is published in a
// master's transaction says its key. It becomes the outbox row's key, within
// which order is kept, and is not sent.
const MetadataKey = "lockstep-key"

// MetadataTopic is the topic on which a message came, where the broker adapter
// tells: RabbitMQ's does for topics of one queue. It is not sent. A direct SYNC
// from django-cqrs is known by it alone.
const MetadataTopic = "lockstep-topic"
