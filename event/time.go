package event

import (
	"fmt"
	"time"
)

// Layouts of a time on the wire, after the separator was made a T. Go's parser
// takes a fraction of a second wherever seconds end a layout.
var timeLayouts = []string{
	"2006-01-02T15:04:05Z07:00",
	"2006-01-02T15:04:05Z0700",
	"2006-01-02T15:04:05Z07",
	"2006-01-02T15:04Z07:00",
}

var naiveLayouts = []string{"2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"}

// ParseTime reads a time in any form that django-cqrs masters send: T or a
// space between date and time, with or without a fraction, Z or an offset.
// zoned is false when the text has no offset; the time is then taken as UTC.
func ParseTime(s string) (t time.Time, zoned bool, err error) {
	if len(s) > 10 && s[10] == ' ' {
		s = s[:10] + "T" + s[11:]
	}
	for _, layout := range timeLayouts {
		if t, err := time.Parse(layout, s); err == nil {
			return t, true, nil
		}
	}
	for _, layout := range naiveLayouts {
		if t, err := time.Parse(layout, s); err == nil {
			return t, false, nil
		}
	}
	return time.Time{}, false, fmt.Errorf("event: %.40q is not a date and time", s)
}

// FormatTime writes a time as entities carry it, in UTC: a space between date
// and time, six digits of fraction, an offset.
func FormatTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000000+00:00") }

// FormatExpires writes a time as the envelope's expires has it, in UTC: a T
// between date and time, no fraction, an offset.
func FormatExpires(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05+00:00") }

// Time is a time.Time that reads itself from JSON in every form that masters
// send, which encoding/json's own reading of a time.Time does not: use it in the
// types that handlers decode. A time without an offset is taken as UTC; null is
// the zero time.
type Time struct{ time.Time }

// UnmarshalJSON reads a JSON string as [ParseTime] does, or null.
func (t *Time) UnmarshalJSON(b []byte) error {
	t.Time = time.Time{}
	if IsNull(b) {
		return nil
	}
	s, _ := Text(b)
	parsed, _, err := ParseTime(s)
	t.Time = parsed
	return err
}

// MarshalJSON writes the time as [FormatTime] does, the zero time as null.
func (t Time) MarshalJSON() ([]byte, error) {
	if t.IsZero() {
		return []byte("null"), nil
	}
	return []byte(`"` + FormatTime(t.Time) + `"`), nil
}
