package consumer

import (
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"go.opentelemetry.io/otel/trace"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// incoming is one message, decoded, for a replica of ours.
type incoming struct {
	msg *message.Message
	ev  event.Event
	to  *replica
	change
	// key is the canonical key, the same for all messages of a row as far as Go
	// can tell.
	key string
	// values are the raw members by slot; of a DELETE only the key's.
	values [][]byte
	// absent lists the columns without a member, two bytes a column: "" is none.
	absent string
	place  int // in a batch that is taken apart, see [watch]
	// failed: it did not fit.
	failed bool
	span   trace.Span // nil: the message is not traced
	// parked is set while it waits for a row it refers to, and afterwards.
	parked *parked
}

// Reasons for dead letters beside those of [event.DecodeError]. They are part of
// the wire (header lockstep-reason).
const (
	reasonUnknown   = "unknown" // no such CQRS ID here
	reasonExpired   = "expired"
	reasonRetries   = "retries"   // failed more often than allowed
	reasonPermanent = "permanent" // given up by a handler
)

// rejection says that a message is to become a dead letter without being tried.
type rejection struct {
	reason string
	err    error
	entity string // the CQRS ID that is unknown
}

func (e *rejection) Error() string { return e.err.Error() }
func (e *rejection) Unwrap() error { return e.err }

// read decodes a message for one of the replicas. Its errors are a *rejection,
// or a *DataError of a message that may be right another time, in which case the
// incoming message is returned, too.
func read(replicas map[string]*replica, msg *message.Message, now time.Time) (*incoming, error) {
	ev, err := event.Decode(msg.Payload)
	if err != nil {
		reason := "malformed"
		if decode := (*event.DecodeError)(nil); errors.As(err, &decode) {
			reason = decode.Reason
		}
		return nil, &rejection{reason: reason, err: err}
	}
	to, ok := replicas[ev.CQRSID]
	if !ok {
		return nil, &rejection{reasonUnknown, nobodyFollows(ev), ev.CQRSID}
	}
	in := &incoming{msg: msg, ev: ev, to: to}
	if rejected := in.expired(now); rejected != nil {
		return in, rejected
	}
	in.signal = ev.Signal
	in.restarts = msg.Metadata.Get(event.HeaderEventID) == ""
	in.force = msg.Metadata.Get(event.HeaderForce) == "1"
	if in.handles() {
		return in, in.readHandled()
	}
	return in, in.readData()
}

// nobodyFollows says what can be done about a message for a replica that is not here.
func nobodyFollows(ev event.Event) error {
	key, ok := event.Text(ev.Key)
	if !ok {
		key = string(ev.Key)
	}
	return fmt.Errorf("consumer: nothing here follows %.60q, of which the event of key %.60q came: declare what follows it; "+
		"or ignore it (Config.Ignore, --ignore) and take the queue's binding to its topic away; "+
		"or give this service a queue of its own, if another one shares the queue", ev.CQRSID, key)
}

// expired says that a message is of no use any more; nil means that it is.
func (in *incoming) expired(now time.Time) *rejection {
	if in.ev.Expires.IsZero() || in.ev.Expires.After(now) {
		return nil
	}
	return &rejection{reason: reasonExpired, err: fmt.Errorf("consumer: %s expired at %s", in, event.FormatExpires(in.ev.Expires))}
}

func (in *incoming) setVersion(v event.Version) {
	in.Revision = v.Revision
	in.Updated = v.Updated.UTC().Truncate(time.Microsecond) // what the databases keep
}

// readData takes the row out of the event's data. Its errors are *DataError.
func (in *incoming) readData() error {
	if len(in.ev.Data) == 0 || in.ev.Data[0] != '{' {
		return in.fault(nil, in.ev.Data, errors.New("instance_data is not an object"))
	}
	in.values = make([][]byte, in.to.slots())
	in.to.values(in.ev.Data, in.values)
	if in.signal == event.Delete && in.values[slotKey] == nil && len(in.to.Rest) == 0 {
		in.values[slotKey] = deletedKey(in.ev.Data)
	}
	version, err := event.ParseVersion(in.values[slotRevision], in.values[slotUpdated])
	if err != nil {
		return in.fault(nil, nil, err)
	}
	in.setVersion(version)
	for _, slot := range in.to.keySlots() {
		if event.IsNull(in.values[slot]) {
			return in.fault(nil, nil, fmt.Errorf("the key (field %q) is missing", in.to.wire[slot]))
		}
	}
	in.key = in.to.keyOf(in.values)
	if in.signal == event.Delete {
		return nil
	}
	return in.readColumns()
}

// readColumns checks what can be known to fail before the database is asked.
func (in *incoming) readColumns() error {
	var absent []byte
	for i := range in.to.Columns {
		column, value := &in.to.Columns[i], in.values[slotColumn+i]
		switch {
		case value == nil && column.NotNull:
			return in.fault(nil, nil, fmt.Errorf("field %q is missing, and column %s may not be null", in.to.wire[slotColumn+i], column.Name))
		case value == nil:
			absent = append(absent, byte(i), byte(i>>8))
		case column.NotNull && event.IsNull(value):
			return in.fault(column, value, errors.New("the column may not be null"))
		}
	}
	in.absent = string(absent)
	return nil
}

// covers reports whether in sets every column that other sets.
func (in *incoming) covers(other *incoming) bool { return in.absent == "" || in.absent == other.absent }

// writtenWithout tells which columns are written when some are absent, as in [incoming].
func (r *replica) writtenWithout(absent string) dialect.Where {
	written := make([]bool, len(r.Columns))
	for i := range written {
		written[i] = true
	}
	for i := 0; i < len(absent); i += 2 {
		written[int(absent[i])|int(absent[i+1])<<8] = false
	}
	return func(i int) bool { return written[i] }
}

// writes reports whether the column with index i has a member.
func (in *incoming) writes(i int) bool { return in.values[slotColumn+i] != nil }

// String names the entity and its key, for logs and errors.
func (in *incoming) String() string {
	return shorten(in.ev.CQRSID, maxShown) + "/" + in.shownKey()
}

// shownKey is the key's text, shortened; the envelope's where the data has none.
func (in *incoming) shownKey() string {
	key := in.key
	if key == "" {
		key, _ = event.Text(in.ev.Key)
	}
	return shorten(key, maxShown)
}
