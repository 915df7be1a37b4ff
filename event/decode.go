package event

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// DecodeError says why a body is not an event. No retry can mend it.
type DecodeError struct {
	// Reason is one word for headers and counters: "malformed" (not a JSON
	// object in UTF-8), "incomplete" (a required key is missing or of a wrong
	// type) or "signal" (an unknown signal_type).
	Reason string
	Detail string
}

func (e *DecodeError) Error() string { return "event: body is " + e.Reason + ": " + e.Detail }

func malformed(detail string) error { return &DecodeError{Reason: "malformed", Detail: detail} }

// Decode reads an envelope. The event's raw members share body's memory, so body
// must not be changed afterwards. Every error is a [*DecodeError].
func Decode(body []byte) (Event, error) {
	var e Event
	body, err := e.clean(body)
	if err != nil {
		return Event{}, err
	}
	var id []byte
	var seen struct{ signal, id, data, key bool }
	for name, value := range Members(body) {
		switch string(name) {
		case "signal_type":
			s, _ := Text(value)
			e.Signal, seen.signal = Signal(s), true
		case "cqrs_id":
			id, seen.id = value, true
		case "instance_data":
			e.Data, seen.data = notNull(value), true
		case "instance_pk":
			e.Key, seen.key = notNull(value), true
		case "previous_data":
			e.Previous = notNull(value)
		case "correlation_id":
			e.CorrelationID = notNull(value)
		case "retries":
			e.setRetries(value)
		case "expires":
			e.setExpires(value)
		case "meta":
			e.Meta = value
		default:
			e.extra = append(append(AppendString(append(e.extra, ','), string(name)), ':'), value...)
		}
	}
	for _, required := range []struct {
		name string
		seen bool
	}{{"signal_type", seen.signal}, {"cqrs_id", seen.id}, {"instance_data", seen.data}, {"instance_pk", seen.key}} {
		if !required.seen {
			return Event{}, &DecodeError{"incomplete", required.name + " is missing"}
		}
	}
	if id[0] != '"' {
		return Event{}, &DecodeError{"incomplete", fmt.Sprintf("cqrs_id is %.40s, not a string", id)}
	}
	e.CQRSID, _ = Text(id)
	switch e.Signal {
	case Save, Delete, Sync:
		return e, nil
	}
	return Event{}, &DecodeError{"signal", fmt.Sprintf("signal_type is %.40q, not SAVE, DELETE or SYNC", string(e.Signal))}
}

// clean returns body as valid JSON of one object.
func (e *Event) clean(body []byte) ([]byte, error) {
	if !utf8.Valid(body) {
		return nil, malformed("not UTF-8")
	}
	if !json.Valid(body) {
		mended, found := nullifyNaN(body)
		if !found || !json.Valid(mended) {
			return nil, malformed("not JSON")
		}
		body = mended
		e.Quirks |= QuirkNaN
	}
	if trimmed := bytes.TrimLeft(body, " \t\r\n"); trimmed[0] != '{' {
		return nil, malformed("not a JSON object")
	}
	return body, nil
}

func notNull(value []byte) json.RawMessage {
	if IsNull(value) {
		return nil
	}
	return value
}

func (e *Event) setRetries(value []byte) {
	n, err := strconv.Atoi(string(value))
	switch {
	case err == nil && n >= 0:
		e.Retries = n
	case err == nil || IsNull(value): // a negative count is taken as none, as null is
		e.Retries = 0
	default:
		e.Quirks |= QuirkRetries
	}
}

func (e *Event) setExpires(value []byte) {
	e.Expires = time.Time{}
	if IsNull(value) {
		return
	}
	s, _ := Text(value)
	t, zoned, err := ParseTime(s)
	if err != nil || !zoned {
		e.Quirks |= QuirkExpires
		return
	}
	e.Expires = t
}

// Version is what orders the events of one key.
type Version struct {
	Revision int64
	Updated  time.Time
}

// Version reads cqrs_revision and cqrs_updated from the event's data. Both must
// be there. A revision may be a number or a numeric string, a fraction is cut;
// an updated time without an offset is taken as UTC.
func (e *Event) Version() (Version, error) {
	var revision, updated []byte
	for name, value := range Members(e.Data) {
		switch string(name) {
		case FieldRevision:
			revision = value
		case FieldUpdated:
			updated = value
		}
	}
	return ParseVersion(revision, updated)
}

// ParseVersion is [Event.Version] for raw values already at hand.
func ParseVersion(revision, updated []byte) (Version, error) {
	if IsNull(revision) || IsNull(updated) {
		return Version{}, fmt.Errorf("event: %s and %s must both be in the data", FieldRevision, FieldUpdated)
	}
	r, err := parseRevision(revision)
	if err != nil {
		return Version{}, err
	}
	s, _ := Text(updated)
	u, _, err := ParseTime(s)
	if err != nil {
		return Version{}, fmt.Errorf("event: %s: %w", FieldUpdated, err)
	}
	return Version{Revision: r, Updated: u}, nil
}

func parseRevision(raw []byte) (int64, error) {
	s, _ := Text(raw)
	if n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64); err == nil {
		return n, nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || f < -1<<62 || f > 1<<62 || f != f {
		return 0, fmt.Errorf("event: %s is %.40s, not a whole number", FieldRevision, raw)
	}
	return int64(f), nil
}
