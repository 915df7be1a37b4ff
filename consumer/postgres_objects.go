package consumer

import (
	"math"
	"slices"
	"strconv"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// timeLayout is for reading by PostgreSQL, whatever the session's settings.
const timeLayout = "2006-01-02T15:04:05.000000Z"

// appendObjects writes steps as the JSON array that the statements take. Values
// go in as they came: no digit of a number is lost.
func appendObjects(b []byte, steps []*step) []byte {
	size := 2
	for _, s := range steps {
		size += len(s.in.ev.Data) + 64
	}
	b = append(slices.Grow(b, size), '[')
	for i, s := range steps {
		if i > 0 {
			b = append(b, ',')
		}
		b = s.appendObject(b)
	}
	return append(b, ']')
}

func (s *step) appendObject(b []byte) []byte {
	b = s.in.appendValues(b, func(i int) bool { return !s.deletes() || s.in.to.IsKey(i) })
	if !s.deletes() {
		b = s.appendGuards(b)
	}
	b = strconv.AppendInt(append(b, `,"`+dialect.MemberRevision+`":`...), s.version.Revision, 10)
	b = s.version.Updated.AppendFormat(append(b, `,"`+dialect.MemberUpdated+`":"`...), timeLayout)
	return append(b, `"}`...)
}

// appendValues writes the key and the chosen columns, and leaves the object open.
func (in *incoming) appendValues(b []byte, where dialect.Where) []byte {
	b = append(append(b, `{"`+dialect.MemberKey+`":`...), in.values[slotKey]...)
	for i, value := range in.values[slotColumn:] {
		if value != nil && where(i) {
			b = strconv.AppendInt(append(b, `,"`+dialect.MemberColumn...), int64(i), 10)
			b = append(append(b, `":`...), value...)
		}
	}
	return b
}

// appendStale writes the members that tell whether the message is stale.
func (in *incoming) appendStale(b []byte) []byte {
	held := in.Revision
	if in.signal == event.Sync && held < math.MaxInt64 {
		held++
	}
	if !in.always() {
		b = strconv.AppendInt(append(b, `,"`+dialect.MemberHeld+`":`...), held, 10)
	}
	if !in.first() {
		b = strconv.AppendInt(append(b, `,"`+dialect.MemberDead+`":`...), in.Revision, 10)
	}
	return b
}

// appendGuards writes the members that most messages do not have, and the base
// of those that are expected to follow a stored revision.
func (s *step) appendGuards(b []byte) []byte {
	if base, ok := s.follows(); ok {
		b = strconv.AppendInt(append(b, `,"`+dialect.MemberBase+`":`...), base, 10)
	}
	if s.pass != s.version.Revision {
		b = strconv.AppendInt(append(b, `,"`+dialect.MemberPass+`":`...), s.pass, 10)
	}
	if !s.first.IsZero() {
		b = append(s.first.AppendFormat(append(b, `,"`+dialect.MemberFirst+`":"`...), timeLayout), '"')
	}
	return b
}
