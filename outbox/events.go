package outbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/tracing"
)

// events makes the messages of changed rows, in their order. It calls the
// entity's functions, each once, except for Meta.
func (tx *Tx) events(ctx context.Context, p *plan, op operation, keys []string, rows []changed) ([]outgoing, error) {
	tx.flushing = true
	defer func() { tx.flushing = false }()
	rows = p.sent(op, rows)
	if len(rows) == 0 {
		return nil, nil
	}
	made, err := tx.represent(ctx, p, op, rows)
	if err != nil {
		return nil, err
	}
	correlation, err := tx.ob.correlation(ctx)
	if err != nil {
		return nil, err
	}
	ids, err := eventIDs(len(rows))
	if err != nil {
		return nil, err
	}
	var expires time.Time
	if p.TTL > 0 {
		expires = time.Now().Add(p.TTL)
	}
	untracked := &TrackError{Entity: p.ID}
	msgs := make([]outgoing, 0, len(rows))
	for i := range rows {
		row := &rows[i]
		e := event.Event{Signal: p.signal(op, row), CQRSID: p.ID, Key: row.pk, CorrelationID: correlation, Expires: expires}
		if size := int64(len(row.data)); size > tx.ob.maxPayload && made[row.key] == nil && e.Signal != event.Delete {
			return nil, &PayloadError{Entity: p.ID, Key: row.key, Size: size, Limit: tx.ob.maxPayload} // before it is copied
		}
		e.Data = p.data(row, e.Signal, made[row.key])
		if e.Signal == event.Save && len(p.tracked) > 0 {
			var known bool
			if e.Previous, known = tx.previous(p, keys[row.at], row); !known {
				untracked.Keys = append(untracked.Keys, row.key)
				continue
			}
		}
		if e.Meta, err = tx.meta(ctx, p, &e, row); err != nil {
			return nil, err
		}
		body := e.AppendJSON(nil)
		if size := int64(len(body)); size > tx.ob.maxPayload {
			return nil, &PayloadError{Entity: p.ID, Key: row.key, Size: size, Limit: tx.ob.maxPayload}
		}
		msgs = append(msgs, outgoing{topic: event.Topic(p.ID), key: row.key, payload: body, metadata: idMetadata(ctx, ids[i])})
	}
	if len(untracked.Keys) > 0 {
		return nil, untracked
	}
	return msgs, nil
}

// idMetadata is an event's headers: its id, and the span that it is written in.
func idMetadata(ctx context.Context, id string) string {
	var room [64]byte // for an id alone
	metadata := append(event.AppendString(append(room[:0], '{'), event.HeaderEventID), ':')
	return string(append(tracing.Append(ctx, event.AppendString(metadata, id)), '}'))
}

// signal says what a changed row's event is.
func (p *plan) signal(op operation, row *changed) event.Signal {
	if op.signal == event.Save && !row.inside {
		return event.Delete
	}
	return op.signal
}

// sent leaves out rows outside Where that replicas do not have.
func (p *plan) sent(op operation, rows []changed) []changed {
	if p.Where == "" || op.signal != event.Save {
		return rows
	}
	return slices.DeleteFunc(slices.Clone(rows), func(row changed) bool {
		return !row.inside && (row.fresh || p.Leave == LeaveSilently)
	})
}

// represent calls Serialize for the rows that are sent and DeleteData for those
// that go. It returns what they made, by key, as JSON objects.
func (tx *Tx) represent(ctx context.Context, p *plan, op operation, rows []changed) (map[string]json.RawMessage, error) {
	var saved, deleted []Instance
	for i := range rows {
		row := &rows[i]
		one := Instance{Entity: p.ID, Key: row.key, Signal: p.signal(op, row), Revision: row.revision, Data: row.data}
		if one.Signal == event.Delete {
			deleted = append(deleted, one)
		} else {
			saved = append(saved, one)
		}
	}
	made := map[string]json.RawMessage{}
	if p.Serialize != nil && len(saved) > 0 {
		all, err := p.Serialize(ctx, tx, saved)
		if err := p.encodeMade(made, saved, all, err, "Serialize", true); err != nil {
			return nil, err
		}
	}
	if p.DeleteData != nil && len(deleted) > 0 {
		all, err := p.DeleteData(ctx, tx, deleted)
		if err := p.encodeMade(made, deleted, all, err, "DeleteData", false); err != nil {
			return nil, err
		}
	}
	return made, nil
}

// encodeMade encodes what a function has made of rows.
func (p *plan) encodeMade(made map[string]json.RawMessage, rows []Instance, all map[string]any, err error, function string, required bool) error {
	if err != nil {
		return &functionError{fmt.Errorf("outbox: %s: %s: %w", p.ID, function, err)}
	}
	for _, row := range rows {
		value, has := all[row.Key]
		if !has && !required {
			continue
		}
		fault := func(column string, err error) error {
			return &RowError{Entity: p.ID, Keys: []string{row.Key}, Column: column, Err: fmt.Errorf("%s: %w", function, err)}
		}
		if !has {
			return fault("", fmt.Errorf("it returned nothing for the key; it returned %d of %d rows", len(all), len(rows)))
		}
		object, column, err := objectJSON(value)
		if err != nil {
			return fault(column, err)
		}
		made[row.Key] = object
	}
	return nil
}

// data is a row's instance_data.
func (p *plan) data(row *changed, signal event.Signal, made json.RawMessage) json.RawMessage {
	var data []byte
	switch {
	case signal == event.Delete:
		data = []byte{'{'}
		if !p.keyNamedID() {
			data = append(append(append(data, `"id":`...), row.pk...), ',')
		}
		data = append(data, row.columns[1:len(row.columns)-1]...)
		if made != nil {
			data = append(append(data, `,"custom":`...), made...)
		}
		data = append(data, '}')
	case made != nil:
		data = withoutVersion(made)
	default:
		data = bytes.Clone(row.data)
	}
	data = data[:len(data)-1]
	if len(data) > 1 {
		data = append(data, ',')
	}
	data = append(data, `"`+event.FieldRevision+`":`...)
	data = strconv.AppendInt(data, row.revision, 10)
	data = append(data, `,"`+event.FieldUpdated+`":`...)
	return append(event.AppendString(data, row.updated), '}')
}

func (p *plan) keyNamedID() bool {
	return slices.Contains(p.keyColumns(), event.FieldDeletedKey)
}

// withoutVersion returns a copy of an object without the members that are added.
func withoutVersion(object json.RawMessage) []byte {
	data := make([]byte, 1, len(object)+96)
	data[0] = '{'
	for name, value := range event.Members(object) {
		if string(name) == event.FieldRevision || string(name) == event.FieldUpdated {
			continue
		}
		if len(data) > 1 {
			data = append(data, ',')
		}
		data = append(append(event.AppendString(data, string(name)), ':'), value...)
	}
	return append(data, '}')
}

// meta calls the entity's Meta, or that of all entities.
func (tx *Tx) meta(ctx context.Context, p *plan, e *event.Event, row *changed) (json.RawMessage, error) {
	function := p.Meta
	if function == nil {
		function = tx.ob.meta
	}
	if function == nil {
		return nil, nil
	}
	meta, err := function(ctx, Instance{
		Entity: p.ID, Key: row.key, Signal: e.Signal, Revision: row.revision, Data: e.Data, Previous: e.Previous,
	})
	if err == nil && meta == nil {
		return nil, nil
	}
	var member string
	var encoded json.RawMessage
	if err == nil {
		encoded, member, err = objectJSON(meta)
	}
	if err != nil {
		if member != "" {
			err = fmt.Errorf("%s: %w", member, err)
		}
		return nil, &RowError{Entity: p.ID, Keys: []string{row.key}, Err: fmt.Errorf("its Meta: %w", err)}
	}
	return encoded, nil
}

// objectJSON encodes a JSON object. If that cannot be done it says which member
// is to blame, where it can tell.
func objectJSON(value any) (object json.RawMessage, member string, err error) {
	object, err = wireJSON(value)
	if err == nil && (len(object) == 0 || object[0] != '{') {
		return nil, "", fmt.Errorf("%T is not encoded as a JSON object", value)
	}
	if members, ok := value.(map[string]any); ok && err != nil {
		for _, name := range slices.Sorted(maps.Keys(members)) {
			if _, err := wireJSON(members[name]); err != nil {
				return nil, name, err
			}
		}
	}
	return object, "", err
}

// wireJSON encodes a value; a time by itself has the form that entities carry.
func wireJSON(value any) (json.RawMessage, error) {
	if t, ok := value.(time.Time); ok {
		return event.AppendString(nil, event.FormatTime(t)), nil
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		var unsupported *json.UnsupportedValueError
		if errors.As(err, &unsupported) {
			return nil, fmt.Errorf("JSON cannot carry %s", unsupported.Str)
		}
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}
