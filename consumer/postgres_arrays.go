package consumer

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/lockstep-go/lockstep/event"
)

// A statement for rows that follow takes one array a column where it can: the
// server reads an array faster than JSON. What needs JSON's own rules, such as a
// lone surrogate, goes as JSON.

// arrays writes steps as array literals: keys, columns, bases, revisions, times.
// It returns nil when a value has to go as JSON.
func arrays(steps []*step) []any {
	first := steps[0].in
	literals := make([]any, 0, len(first.values)+3)
	for slot := slotKey; slot < len(first.values); slot++ {
		if slot >= slotColumn && !first.writes(slot-slotColumn) {
			continue
		}
		b, ok := arrayOf(steps, slot)
		if !ok {
			return nil
		}
		literals = append(literals, b)
	}
	bases, revisions, times := []byte{'{'}, []byte{'{'}, []byte{'{'}
	for i, s := range steps {
		if i > 0 {
			bases, revisions, times = append(bases, ','), append(revisions, ','), append(times, ',')
		}
		base, _ := s.follows()
		bases = strconv.AppendInt(bases, base, 10)
		revisions = strconv.AppendInt(revisions, s.version.Revision, 10)
		times = s.version.Updated.AppendFormat(times, timeLayout)
	}
	return append(literals, append(bases, '}'), append(revisions, '}'), append(times, '}'))
}

// arrayOf writes the values of one slot.
func arrayOf(steps []*step, slot int) ([]byte, bool) {
	document := strings.HasPrefix(steps[0].in.to.column(slot).Base, "json")
	size := 2
	for _, s := range steps {
		size += len(s.in.values[slot]) + 1
	}
	b := append(make([]byte, 0, size+size/8), '{')
	for i, s := range steps {
		if i > 0 {
			b = append(b, ',')
		}
		var ok bool
		if b, ok = appendElement(b, s.in.values[slot], document); !ok {
			return nil, false
		}
	}
	return append(b, '}'), true
}

// appendElement writes a JSON value as an element of an array literal. document
// says that the value itself is wanted and not the text it stands for.
func appendElement(b, raw []byte, document bool) ([]byte, bool) {
	switch {
	case event.IsNull(raw):
		return append(b, "NULL"...), true
	case document, raw[0] == '{', raw[0] == '[':
		return appendQuoted(b, string(raw)), true
	case raw[0] != '"' || !slices.Contains(raw, '\\'):
		return append(b, raw...), true // a JSON string without escapes is an element as it is
	}
	text, _ := event.Text(raw)
	if strings.ContainsRune(text, utf8.RuneError) || strings.ContainsRune(text, 0) {
		return nil, false // a lone surrogate, or what text cannot hold: refused as JSON, with the right words
	}
	return appendQuoted(b, text), true
}

// appendQuoted writes a quoted element.
func appendQuoted(b []byte, text string) []byte {
	b = append(b, '"')
	for i := range len(text) {
		if c := text[i]; c == '"' || c == '\\' {
			b = append(b, '\\', c)
		} else {
			b = append(b, c)
		}
	}
	return append(b, '"')
}
