package outboxtest

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// Querier is where events are looked for: a *sql.DB, *sql.Conn, *sql.Tx or
// *outbox.Tx. The last is flushed first, so that what is only marked counts: with
// the context of its InTx, as at the commit. Of a wrapped transaction that context
// is not known: where Config.CorrelationID, Meta or Serialize look into it, call
// Flush yourself before.
type Querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// flusher is an *outbox.Tx.
type flusher interface {
	Flush(ctx context.Context) error
	Context() context.Context
}

// Event is one row of the outbox, as it is found or as a test wants it. In a
// wanted event the zero value of a field stands for anything, and maps name only
// the members that are compared.
type Event struct {
	// Entity is the CQRS ID. It is empty for a message that is no entity's event,
	// such as one from outbox.Tx.Publish.
	Entity string
	// Key is the row's key, as text.
	Key    string
	Signal event.Signal
	// Revision is the event's cqrs_revision.
	Revision int64
	// Data are the fields that were sent, without cqrs_revision and cqrs_updated.
	// Values are compared as JSON: numbers by value, so that 1.5 is 1.50; a
	// time.Time, []byte or UUID stands for its text on the wire.
	Data map[string]any
	// Previous are the tracked fields' values before the change.
	Previous map[string]any
	// Meta and CorrelationID are the envelope's.
	Meta          map[string]any
	CorrelationID any
	// Topic is where the relay sends it: the CQRS ID for most events.
	Topic string
	// Metadata are the headers.
	Metadata map[string]string
	// Payload is the whole body.
	Payload []byte
}

// Events returns all events in the outbox, oldest first.
func Events(tb testing.TB, q Querier) []Event {
	tb.Helper()
	if f, ok := q.(flusher); ok {
		ctx := f.Context()
		if ctx == nil {
			ctx = tb.Context()
		}
		if err := f.Flush(ctx); err != nil {
			tb.Fatalf("outboxtest: flush: %v", err)
		}
	}
	all, err := read(tb.Context(), q)
	if err != nil {
		tb.Fatalf("outboxtest: read the outbox: %v", err)
	}
	return all
}

// RequireEvent fails the test at once unless exactly one event is as wanted, and
// returns that event in full.
func RequireEvent(tb testing.TB, q Querier, want Event) Event {
	tb.Helper()
	all := Events(tb, q)
	normal, err := want.normal()
	if err != nil {
		tb.Fatalf("outboxtest: the wanted event: %v", err)
	}
	var found []Event
	for _, have := range all {
		if normal.diff(have) == "" {
			found = append(found, have)
		}
	}
	switch {
	case len(found) == 1:
		return found[0]
	case len(found) > 1:
		tb.Fatalf("outboxtest: %d events are as wanted, want one:\n%s", len(found), list(found))
	case len(all) == 0:
		tb.Fatalf("outboxtest: no event was written; wanted was\n%s\n"+
			"Is the row marked with Saved, and the transaction flushed or committed?", list([]Event{normal}))
	}
	nearest := normal.nearest(all)
	tb.Fatalf("outboxtest: no event is as wanted. The nearest differs (-want +have):\n%s\nAll events:\n%s", normal.diff(nearest), list(all))
	return Event{}
}

// RequireEvents fails the test at once unless the events in the outbox are as
// wanted, all of them and in this order.
func RequireEvents(tb testing.TB, q Querier, want ...Event) {
	tb.Helper()
	all := Events(tb, q)
	var differences strings.Builder
	for i, w := range want {
		normal, err := w.normal()
		if err != nil {
			tb.Fatalf("outboxtest: wanted event %d: %v", i+1, err)
		}
		if i >= len(all) {
			fmt.Fprintf(&differences, "event %d is missing:\n%s\n", i+1, list([]Event{normal}))
		} else if diff := normal.diff(all[i]); diff != "" {
			fmt.Fprintf(&differences, "event %d (-want +have):\n%s\n", i+1, diff)
		}
	}
	if len(all) > len(want) {
		fmt.Fprintf(&differences, "not wanted:\n%s\n", list(all[len(want):]))
	}
	if differences.Len() > 0 {
		tb.Fatalf("outboxtest: the events are not as wanted.\n%sAll events:\n%s", differences.String(), list(all))
	}
}

// RequireNone fails the test at once if there is an event of one of the
// entities; without entities, if there is anything in the outbox.
func RequireNone(tb testing.TB, q Querier, entities ...string) {
	tb.Helper()
	found := slices.DeleteFunc(Events(tb, q), func(e Event) bool {
		return len(entities) > 0 && !slices.Contains(entities, e.Entity)
	})
	if len(found) > 0 {
		tb.Fatalf("outboxtest: want no event of %s, have %d:\n%s",
			strings.Join(append(entities, "any entity")[:max(1, len(entities))], ", "), len(found), list(found))
	}
}

func read(ctx context.Context, q Querier) ([]Event, error) {
	rows, err := q.QueryContext(ctx, dialect.AllOutbox)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	var all []Event
	for rows.Next() {
		var e Event
		var metadata []byte
		targets := make([]any, len(columns))
		for i, name := range columns {
			switch name {
			case "topic":
				targets[i] = &e.Topic
			case "key":
				targets[i] = &e.Key
			case "payload":
				targets[i] = &e.Payload
			case "metadata":
				targets[i] = &metadata
			default:
				targets[i] = new(any)
			}
		}
		if err := rows.Scan(targets...); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(metadata, &e.Metadata); err != nil {
			return nil, fmt.Errorf("metadata %s: %w", metadata, err)
		}
		if decoded, err := event.Decode(e.Payload); err == nil {
			if err := e.fill(&decoded); err != nil {
				return nil, fmt.Errorf("payload %s: %w", e.Payload, err)
			}
		}
		all = append(all, e)
	}
	return all, rows.Err()
}

// fill takes over what an entity's event says.
func (e *Event) fill(decoded *event.Event) error {
	e.Entity, e.Signal = decoded.CQRSID, decoded.Signal
	if v, err := decoded.Version(); err == nil {
		e.Revision = v.Revision
	}
	for _, part := range []struct {
		raw    json.RawMessage
		target any
	}{{decoded.Data, &e.Data}, {decoded.Previous, &e.Previous}, {decoded.Meta, &e.Meta}, {decoded.CorrelationID, &e.CorrelationID}} {
		if err := parse(part.raw, part.target); err != nil {
			return err
		}
	}
	delete(e.Data, event.FieldRevision)
	delete(e.Data, event.FieldUpdated)
	normalize(e.Data, e.Previous, e.Meta)
	e.CorrelationID = plain(e.CorrelationID)
	return nil
}

func parse(raw json.RawMessage, target any) error {
	if event.IsNull(raw) {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return d.Decode(target)
}

// normal returns a wanted event with its values as they come from the wire.
func (e Event) normal() (Event, error) {
	for _, m := range []*map[string]any{&e.Data, &e.Previous, &e.Meta} {
		if *m == nil {
			continue
		}
		wire := make(map[string]any, len(*m))
		for name, value := range *m {
			var err error
			if wire[name], err = wireValue(value); err != nil {
				return e, fmt.Errorf("%s: %w", name, err)
			}
		}
		*m = wire
	}
	var err error
	e.CorrelationID, err = wireValue(e.CorrelationID)
	return e, err
}

func wireValue(value any) (any, error) {
	if t, ok := value.(time.Time); ok {
		return event.FormatTime(t), nil
	}
	raw, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	var parsed any
	if err := parse(raw, &parsed); err != nil {
		return nil, err
	}
	return plain(parsed), nil
}

func normalize(maps ...map[string]any) {
	for _, m := range maps {
		for name, value := range m {
			m[name] = plain(value)
		}
	}
}

// plain writes numbers of one value in one way, at any depth.
func plain(value any) any {
	switch v := value.(type) {
	case map[string]any:
		normalize(v)
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
	case json.Number:
		return number(v)
	}
	return value
}

func number(n json.Number) json.Number {
	const most = 400 // what a floating-point number has at most, written out
	if _, exponent, found := strings.Cut(strings.ToLower(string(n)), "e"); found && len(exponent) > 4 {
		return n
	}
	r, ok := new(big.Rat).SetString(string(n))
	if !ok {
		return n
	}
	if digits, exact := r.FloatPrec(); exact && digits <= most {
		return json.Number(r.FloatString(digits))
	}
	return n
}

// diff compares what a wanted event states. It is empty when have is as wanted.
func (e Event) diff(have Event) string { return cmp.Diff(e, e.project(have)) }

// project leaves of have only what e states.
func (e Event) project(have Event) Event {
	keep(e.Entity, &have.Entity)
	keep(e.Key, &have.Key)
	keep(e.Signal, &have.Signal)
	keep(e.Revision, &have.Revision)
	keep(e.Topic, &have.Topic)
	have.Data, have.Previous, have.Meta = members(e.Data, have.Data), members(e.Previous, have.Previous), members(e.Meta, have.Meta)
	have.Metadata = members(e.Metadata, have.Metadata)
	if e.CorrelationID == nil {
		have.CorrelationID = nil
	}
	if e.Payload == nil {
		have.Payload = nil
	}
	return have
}

func keep[T comparable](want T, have *T) {
	var zero T
	if want == zero {
		*have = zero
	}
}

func members[V any](want, have map[string]V) map[string]V {
	if want == nil {
		return nil
	}
	kept := map[string]V{}
	for name := range want {
		if value, there := have[name]; there {
			kept[name] = value
		}
	}
	return kept
}

// nearest returns the event that a diff says most about: the newest of the same
// key, entity or signal, whichever has more in common.
func (e Event) nearest(all []Event) Event {
	likeness := func(have Event) (n int) {
		for i, same := range []bool{
			e.Signal == have.Signal, e.Topic != "" && e.Topic == have.Topic, e.Key != "" && e.Key == have.Key, e.Entity != "" && e.Entity == have.Entity,
		} {
			if same {
				n += 1 << i
			}
		}
		return n
	}
	best := all[0]
	for _, have := range all[1:] {
		if likeness(have) >= likeness(best) {
			best = have
		}
	}
	return best
}

// list shows events, one a line.
func list(all []Event) string {
	var b strings.Builder
	for _, e := range all {
		if e.Entity == "" && len(e.Payload) > 0 {
			fmt.Fprintf(&b, "  message on %s, key %q: %.200q\n", e.Topic, e.Key, e.Payload)
			continue
		}
		fmt.Fprintf(&b, "  %s %s/%s", orAny(string(e.Signal)), orAny(e.Entity), orAny(e.Key))
		if e.Revision != 0 {
			fmt.Fprintf(&b, ", revision %d", e.Revision)
		}
		if e.Topic != "" && e.Topic != e.Entity {
			fmt.Fprintf(&b, ", on %s", e.Topic)
		}
		for _, name := range slices.Sorted(maps.Keys(e.Data)) {
			value, err := json.Marshal(e.Data[name])
			if err != nil {
				value = fmt.Append(nil, e.Data[name])
			}
			fmt.Fprintf(&b, ", %s=%.60s", name, value)
		}
		b.WriteByte('\n')
	}
	return strings.TrimRight(b.String(), "\n")
}

func orAny(text string) string {
	if text == "" {
		return "(any)"
	}
	return text
}
