// Package event holds the one thing all other packages speak of: an event about
// an entity, its envelope on the wire, and the topics it travels on.
//
// The envelope is django-cqrs's, so that a Go and a Django service can be master
// and replica of each other: one JSON object with nine keys (see docs/wire.md).
// [Event.AppendJSON] always writes valid JSON. [Decode] is liberal: it takes any
// formatting, bare NaN and Infinity, and every form of time that a django-cqrs
// master sends; what it cannot take is a [DecodeError], never a panic.
//
// The package does no I/O, keeps no state, and everything in it may be used
// from several goroutines at once.
package event

import (
	"encoding/json"
	"time"
)

// Signal says what happened to an entity. Its value is the wire's.
type Signal string

// The three signals. Create and update are both a Save.
const (
	Save   Signal = "SAVE"
	Delete Signal = "DELETE"
	Sync   Signal = "SYNC"
)

// Names of the members of an event's data that order the events of one key.
const (
	FieldRevision = "cqrs_revision"
	FieldUpdated  = "cqrs_updated"
	// FieldDeletedKey is where a DELETE carries the key, whatever the name of
	// the master's key column.
	FieldDeletedKey = "id"
)

// Quirk is a set of harmless oddities met while decoding, for counters.
type Quirk uint8

// The quirks that Decode accepts and reports.
const (
	// QuirkExpires: expires was neither null nor a time with an offset. The
	// event is taken as one that does not expire.
	QuirkExpires Quirk = 1 << iota
	// QuirkNaN: the body held a bare NaN or Infinity, read as null.
	QuirkNaN
	// QuirkRetries: retries was not a whole number, read as 0.
	QuirkRetries
)

// Event is one event as it travels. The raw members hold valid JSON; nil stands
// for null. After [Decode] they are slices of the body and share its memory.
type Event struct {
	Signal Signal
	// CQRSID names the entity: django-cqrs's CQRS_ID.
	CQRSID string
	// Data is the entity's state after the change, or the key alone for a DELETE
	// (wire name instance_data).
	Data json.RawMessage
	// Previous holds the tracked fields' values before the change.
	Previous json.RawMessage
	// Key is the entity's key, a JSON number or string (wire name instance_pk).
	Key           json.RawMessage
	CorrelationID json.RawMessage
	// Retries counts how often the event was tried and failed on this queue.
	Retries int
	// Expires is when the event is of no use any more; the zero time means never.
	Expires time.Time
	Meta    json.RawMessage

	// Quirks says what Decode had to overlook. It is not encoded.
	Quirks Quirk
	// extra holds unknown top-level members, encoded and comma-led, so that a
	// retry or a dead letter keeps them.
	extra []byte
}

// AppendJSON appends the envelope to dst and returns the extended slice: the
// nine keys in django-cqrs's order, then any unknown ones the event came with.
func (e *Event) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"signal_type":`...)
	dst = AppendString(dst, string(e.Signal))
	dst = append(dst, `,"cqrs_id":`...)
	dst = AppendString(dst, e.CQRSID)
	dst = appendRaw(append(dst, `,"instance_data":`...), e.Data, "null")
	dst = appendRaw(append(dst, `,"previous_data":`...), e.Previous, "null")
	dst = appendRaw(append(dst, `,"instance_pk":`...), e.Key, "null")
	dst = appendRaw(append(dst, `,"correlation_id":`...), e.CorrelationID, "null")
	dst = append(dst, `,"retries":`...)
	dst = appendInt(dst, e.Retries)
	dst = append(dst, `,"expires":`...)
	if e.Expires.IsZero() {
		dst = append(dst, "null"...)
	} else {
		dst = append(dst, '"')
		dst = append(dst, FormatExpires(e.Expires)...)
		dst = append(dst, '"')
	}
	dst = appendRaw(append(dst, `,"meta":`...), e.Meta, "{}")
	dst = append(dst, e.extra...)
	return append(dst, '}')
}

func appendRaw(dst []byte, raw json.RawMessage, absent string) []byte {
	if len(raw) == 0 {
		return append(dst, absent...)
	}
	return append(dst, raw...)
}
