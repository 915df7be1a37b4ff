package reconcile

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"reflect"

	"github.com/lockstep-go/lockstep/event"
)

// differing returns the replica's fields whose values are not the master's. What
// the master does not send is not compared.
func differing(master, replica json.RawMessage) []FieldDifference {
	var fields []FieldDifference
	sent := make(map[string]json.RawMessage)
	for name, value := range event.Members(master) {
		sent[string(name)] = value
	}
	for name, have := range event.Members(replica) {
		want, ok := sent[string(name)]
		if ok && !sameValue(want, have) {
			fields = append(fields, FieldDifference{Name: string(name), Master: want, Replica: have})
		}
	}
	return fields
}

// sameValue reports whether two values are one, whatever their databases' types
// make of them: 1.5 and "1.50", true and 1, one moment in two zones, JSON and its
// text.
func sameValue(a, b json.RawMessage) bool {
	if bytes.Equal(a, b) {
		return true
	}
	if event.IsNull(a) || event.IsNull(b) {
		return event.IsNull(a) && event.IsNull(b)
	}
	ta, plainA := event.Text(a)
	tb, plainB := event.Text(b)
	switch {
	case plainA && plainB:
		return sameText(ta, tb) || nested(a) && nested(b) && sameJSON([]byte(ta), []byte(tb))
	case plainA: // text of JSON here, JSON there
		return sameJSON([]byte(ta), b)
	case plainB:
		return sameJSON(a, []byte(tb))
	}
	return sameJSON(a, b)
}

// nested reports whether a JSON string holds an object or an array.
func nested(raw json.RawMessage) bool {
	text, _ := event.Text(raw)
	return len(text) > 0 && (text[0] == '{' || text[0] == '[')
}

func sameText(a, b string) bool {
	if a == b || truth(a) == truth(b) && truth(a) != "" {
		return true
	}
	if x, ok := new(big.Rat).SetString(plainNumber(a)); ok {
		y, ok := new(big.Rat).SetString(plainNumber(b))
		return ok && x.Cmp(y) == 0
	}
	x, _, err := event.ParseTime(a)
	if err != nil {
		return sameBytes(a, b)
	}
	y, _, err := event.ParseTime(b)
	return err == nil && x.Equal(y)
}

// plainNumber keeps big.Rat from reading fractions, and numbers whose exponent
// would fill the memory.
func plainNumber(s string) string {
	if !json.Valid([]byte(s)) || len(s) > 400 {
		return ""
	}
	var f float64
	if json.Unmarshal([]byte(s), &f) != nil {
		return ""
	}
	return s
}

func truth(s string) string {
	switch s {
	case "true", "1":
		return "true"
	case "false", "0":
		return "false"
	}
	return ""
}

func sameBytes(a, b string) bool {
	x, err := base64.StdEncoding.DecodeString(a)
	if err != nil {
		return false
	}
	y, err := base64.StdEncoding.DecodeString(b)
	return err == nil && bytes.Equal(x, y)
}

func sameJSON(a, b []byte) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}
