package consumer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"time"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// Kind says what an event means to a replica.
type Kind string

// The kinds of events. A SYNC is a Create or an Update, too.
const (
	Create Kind = "create"
	Update Kind = "update"
	Delete Kind = "delete"
)

// Event is an event as a handler gets it. The raw members are valid JSON, nil
// where the message has null; they must not be changed.
type Event[T any] struct {
	// Entity is the CQRS ID and Key the key's text; see Keys for one of several columns.
	Entity, Key string
	// Kind tells a key that is new here, or was deleted before, from one that is
	// known. A handler without a transaction has no memory of keys: there a first
	// revision (1, or 0 from django-cqrs) is a Create.
	Kind Kind
	// Data is the entity's state, decoded from Raw by encoding/json. Of a Delete it
	// has what the master sends with it, which is the key at least, as far as that
	// fits T. Times need [event.Time].
	Data T
	// Raw is instance_data as it came.
	Raw json.RawMessage
	// Previous holds the tracked fields' old values (previous_data).
	Previous json.RawMessage
	// Meta is what the master added to the event, and CorrelationID what led to it.
	Meta, CorrelationID json.RawMessage
	// Revision and Updated are the event's place among those of its key.
	Revision int64
	Updated  time.Time
	// Sync: the event repeats the current state, it is not about a change. Forced:
	// it may lower the revision.
	Sync, Forced bool
	// Attempt counts from 1 how often this event has been tried on this queue.
	Attempt int
}

// HandlerOptions say how a handler is run. The zero value is the default for all.
type HandlerOptions struct {
	// Key is the member of the data that holds the entity's key; a DELETE may have
	// it under "id" instead. Empty takes it from the envelope (instance_pk).
	Key string
	// Timeout is how long a call may take. Zero means [Config.HandlerTimeout].
	Timeout time.Duration
	// MaxRetries is how often an event that failed is tried again before it becomes
	// a dead letter. Zero means 30; see NoRetries and RetryForever.
	MaxRetries int
	// RetryDelay is the pause before an event is tried again. Zero means 2 s.
	RetryDelay time.Duration
	// RetryIf, when set, decides instead of MaxRetries whether an event is tried
	// again. Attempts are counted from 1: it is the number of the one that failed.
	// It is called from several goroutines.
	RetryIf func(attempt int, err error) bool
	// RetryDelayFor, when set, gives the pause instead of RetryDelay.
	RetryDelayFor func(attempt int, err error) time.Duration
	// OnlyDirectSyncs leaves out SYNCs that are meant for all replicas: only those
	// sent to this queue are applied. The others are acknowledged and counted as
	// ignored.
	OnlyDirectSyncs bool
}

// Handle registers a function that is called with each event of an entity which
// is news to this queue: duplicates and what is older than the last one seen are
// left out, by the same rules as for tables (see the package's documentation).
//
// The function runs in a transaction, together with the note that the event was
// seen: both are committed or neither. It works on the database through tx only,
// and must not be done with it later than it returns. Events of one key come one
// at a time, those of different keys side by side, up to [Config.Workers].
//
// When it returns nil, the transaction is committed and the message acknowledged.
// An error, a panic or a timeout undo the transaction and cost the event an
// attempt; the options say how often and when it is tried again. [Permanent] gives
// an event up at once, [RetryAfter] says when. An event that is tried again comes
// behind later ones of its key, if there are any, and is stale then: what counts
// is the newest state. When the database is away, the consumer waits and calls the
// function again, which costs no attempt.
//
// ctx ends with the timeout, and the transaction with it: a function that goes on
// has no database any more. It cannot be stopped, so its key and its worker wait
// until it returns; that is logged. A Run that ends waits for it no longer than
// its drain.
//
// T is a struct, a map or json.RawMessage, without a time.Time in it:
// [event.Time] reads what masters send. Handle must be called before Run;
// ErrRunning otherwise. All faults are reported at once. At most one
// HandlerOptions may be given.
func Handle[T any](c *Consumer, cqrsID string, fn func(ctx context.Context, tx Tx, ev Event[T]) error, options ...HandlerOptions) error {
	h := &handler{call: func(ctx context.Context, tx Tx, in *incoming, kind Kind) error {
		ev, err := eventOf[T](in, kind)
		if err != nil {
			return err
		}
		return fn(ctx, tx, ev)
	}}
	return c.handle("Handle", cqrsID, fn == nil, dataFault(reflect.TypeFor[T]()), h, options)
}

// HandleNoDB registers a function as [Handle] does, without a transaction and
// without a note of what was seen: for a cache or a call to another service. It
// is called at least once for each event, also with duplicates and with events
// that come late, so it has to tell by the revision; one at a time for each key,
// in the order of arrival, within this process.
func HandleNoDB[T any](c *Consumer, cqrsID string, fn func(ctx context.Context, ev Event[T]) error, options ...HandlerOptions) error {
	h := &handler{noDB: true, call: func(ctx context.Context, _ Tx, in *incoming, kind Kind) error {
		ev, err := eventOf[T](in, kind)
		if err != nil {
			return err
		}
		return fn(ctx, ev)
	}}
	return c.handle("HandleNoDB", cqrsID, fn == nil, dataFault(reflect.TypeFor[T]()), h, options)
}

// handler is what was registered, without its type.
type handler struct {
	noDB    bool
	key     string
	timeout time.Duration
	call    func(ctx context.Context, tx Tx, in *incoming, kind Kind) error
}

func (c *Consumer) handle(call, cqrsID string, missing bool, data error, h *handler, options []HandlerOptions) error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("consumer: %s %q: "+format, append([]any{call, cqrsID}, args...)...))
	}
	if err := event.ValidateName("CQRS ID", cqrsID); err != nil {
		fault("%w", err)
	}
	if missing {
		fault("the function is nil")
	}
	if data != nil {
		fault("%w", data)
	}
	var o HandlerOptions
	switch len(options) {
	case 0:
	case 1:
		o = options[0]
	default:
		fault("there are %d HandlerOptions: one is enough", len(options))
	}
	if o.Timeout < 0 || o.Timeout > 0 && o.Timeout < time.Millisecond {
		fault("Timeout is %s; zero means Config.HandlerTimeout, and the least is 1ms", o.Timeout)
	}
	e := &entity{id: cqrsID, handler: h, policy: policy{o.MaxRetries, o.RetryDelay, o.RetryIf, o.RetryDelayFor, o.OnlyDirectSyncs}}
	e.policy.validate(fault)
	h.key, h.timeout = o.Key, o.Timeout
	h.timeout = cmp.Or(h.timeout, c.cfg.HandlerTimeout)
	return c.register(call, e, faults)
}

// eventOf decodes an event. Its error is a *DataError.
func eventOf[T any](in *incoming, kind Kind) (Event[T], error) {
	ev := Event[T]{
		Entity: in.ev.CQRSID, Key: in.key, Kind: kind,
		Raw: in.ev.Data, Previous: in.ev.Previous, CorrelationID: in.ev.CorrelationID,
		Revision: in.Revision, Updated: in.Updated,
		Sync: in.signal == event.Sync, Forced: in.signal == event.Sync && in.force, Attempt: in.ev.Retries + 1,
	}
	if !event.IsNull(in.ev.Meta) {
		ev.Meta = in.ev.Meta
	}
	if err := json.Unmarshal(in.ev.Data, &ev.Data); err != nil {
		if kind != Delete {
			return ev, in.fault(nil, nil, fmt.Errorf("instance_data does not fit %T: %w", ev.Data, err))
		}
		var zero T
		ev.Data = zero
	}
	return ev, nil
}

// kindWithout tells the kind where nothing is stored about the key.
func kindWithout(in *incoming) Kind {
	first := int64(1)
	if in.restarts {
		first = 0
	}
	switch {
	case in.signal == event.Delete:
		return Delete
	case in.Revision <= first:
		return Create
	}
	return Update
}

// kindOf tells the kind by what is stored about the key.
func kindOf(in *incoming, have state) Kind {
	switch {
	case in.signal == event.Delete:
		return Delete
	case have.presence == row:
		return Update
	}
	return Create
}

// readHandled takes what orders the events of a key out of an event for a
// handler. Its errors are *DataError.
func (in *incoming) readHandled() error {
	if len(in.ev.Data) == 0 || in.ev.Data[0] != '{' {
		return in.fault(nil, in.ev.Data, errors.New("instance_data is not an object"))
	}
	raw, name := []byte(in.ev.Key), in.to.entity.handler.key
	if name != "" {
		raw = in.memberKey(name)
	}
	if event.IsNull(raw) {
		return in.fault(nil, nil, fmt.Errorf("the key (%s) is missing", cmp.Or(name, "instance_pk")))
	}
	if in.key = handledKey(raw); len(in.key) > dialect.MaxInboxKey {
		return in.fault(nil, nil, fmt.Errorf("the key has %d bytes, at most %d are possible", len(in.key), dialect.MaxInboxKey))
	}
	version, err := in.ev.Version()
	if err != nil {
		return in.fault(nil, nil, err)
	}
	in.setVersion(version)
	return nil
}

// memberKey finds the key in the data; a DELETE's may be called id.
func (in *incoming) memberKey(name string) (raw []byte) {
	for member, value := range event.Members(in.ev.Data) {
		switch {
		case string(member) == name:
			raw = value
		case string(member) == event.FieldDeletedKey && in.signal == event.Delete && raw == nil:
			raw = value
		}
	}
	return raw
}

// handledKey returns one text for all spellings of a key, whose column's type is
// not known.
func handledKey(raw []byte) string {
	text, ok := event.Text(raw)
	if !ok {
		return string(raw)
	}
	if raw[0] != '"' {
		if n, ok := wholeNumber(text); ok {
			return strconv.FormatInt(n, 10)
		}
		return text
	}
	if canonical, ok := canonicalUUID(text); ok {
		return canonical
	}
	return text
}
