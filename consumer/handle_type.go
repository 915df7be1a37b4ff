package consumer

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"
)

var (
	unmarshaler = reflect.TypeFor[json.Unmarshaler]()
	plainTime   = reflect.TypeFor[time.Time]()
)

// dataFault says what keeps a type from taking an event's data, or returns nil.
func dataFault(t reflect.Type) error {
	for t.Kind() == reflect.Pointer && !reads(t) {
		t = t.Elem()
	}
	switch object := t.Kind() == reflect.Struct || t.Kind() == reflect.Map || t.Kind() == reflect.Interface; {
	case t != plainTime && reads(t): // json.RawMessage, too
		return nil
	case !object || t == plainTime:
		return fmt.Errorf("the data is a JSON object, which %s does not take: use a struct, a map or json.RawMessage", t)
	}
	if path := timeIn(t, map[reflect.Type]bool{}); path != "" {
		return fmt.Errorf("%s is a time.Time, which does not read the times of masters: use event.Time", strings.TrimSpace(t.String()+path))
	}
	return nil
}

// reads reports whether a type reads itself from JSON.
func reads(t reflect.Type) bool {
	return t.Implements(unmarshaler) || reflect.PointerTo(t).Implements(unmarshaler)
}

// timeIn returns the path to a time.Time within a type, or "".
func timeIn(t reflect.Type, seen map[reflect.Type]bool) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == plainTime {
		return " "
	}
	if seen[t] || reads(t) {
		return ""
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Slice, reflect.Array, reflect.Map:
		return timeIn(t.Elem(), seen)
	case reflect.Struct:
		for f := range t.Fields() {
			if f.Tag.Get("json") == "-" || !f.IsExported() && !f.Anonymous {
				continue
			}
			if path := timeIn(f.Type, seen); path != "" {
				return strings.TrimSpace("." + f.Name + path)
			}
		}
	}
	return ""
}
