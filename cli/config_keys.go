package cli

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// checkKeys reports every key of the file that nothing reads, with those that may
// stand in its place. Text that is not YAML is left to the decoder.
func checkKeys(text []byte) error {
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil //nolint:nilerr // the decoder says it with the line
	}
	var faults []error
	for _, doc := range file.Docs {
		faults = append(faults, unknownKeys(doc.Body, reflect.TypeFor[configFile](), "")...)
	}
	return errors.Join(faults...)
}

// unknownKeys looks through a part of the file for keys that its type lacks. at is
// the way there, such as "replicas: account: ".
func unknownKeys(node ast.Node, of reflect.Type, at string) (faults []error) {
	if anchor, ok := node.(*ast.AnchorNode); ok {
		node = anchor.Value
	}
	mapping, ok := node.(ast.MapNode)
	if !ok {
		return nil // a text, a list, nothing, or what stands elsewhere in the file
	}
	known := keysOf(of)
	for entries := mapping.MapRange(); entries.Next(); {
		token := entries.KeyValue().Key.GetToken()
		name := token.Value
		switch part, declared := known[name]; {
		case name == "<<": // what stands elsewhere in the file
		case of.Kind() == reflect.Map:
			faults = append(faults, unknownKeys(entries.Value(), of.Elem(), at+name+": ")...)
		case of.Kind() != reflect.Struct:
		case declared:
			faults = append(faults, unknownKeys(entries.Value(), part, at+name+": ")...)
		default:
			faults = append(faults, fmt.Errorf("[%d:%d] %sunknown key %q: %s",
				token.Position.Line, token.Position.Column, at, name, instead(name, known)))
		}
	}
	return faults
}

// keysOf returns the keys of a part of the file with the types of their values.
func keysOf(of reflect.Type) map[string]reflect.Type {
	known := map[string]reflect.Type{}
	if of.Kind() != reflect.Struct {
		return known
	}
	for field := range of.Fields() {
		if tag, ok := field.Tag.Lookup("yaml"); ok {
			known[tag] = field.Type
		}
	}
	return known
}

// instead names the key that was probably meant, and all that there are.
func instead(name string, known map[string]reflect.Type) string {
	var names []string
	for one := range known {
		names = append(names, one)
	}
	slices.Sort(names)
	all := "known here are " + strings.Join(names, ", ")
	nearest := slices.MinFunc(names, func(a, b string) int { return distance(name, a) - distance(name, b) })
	if distance(name, nearest) > max(2, len(name)/3) {
		return all
	}
	return fmt.Sprintf("did you mean %s? %s", nearest, all)
}

// distance is how many letters have to be put in, left out or changed (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := corner
			if a[i] != b[j] {
				change++
			}
			corner, row[j+1] = row[j+1], min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
