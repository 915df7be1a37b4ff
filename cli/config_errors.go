package cli

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/goccy/go-yaml"
)

// explainYAML is a YAML error without what it says of Go, and with the line it is about.
func explainYAML(err error) string {
	var wrong *yaml.TypeError
	if !errors.As(err, &wrong) {
		return yaml.FormatError(err, false, true)
	}
	want := "something else"
	switch wrong.DstType.Kind() {
	case reflect.String:
		want = "a text"
	case reflect.Bool:
		want = "true or false"
	case reflect.Int, reflect.Int64:
		want = "a whole number"
	case reflect.Slice:
		want = "a list, such as [a, b]"
	case reflect.Map, reflect.Struct:
		want = "a mapping, such as {name: value}"
	default:
	}
	explained := &yaml.SyntaxError{Message: fmt.Sprintf("use %s here", want), Token: wrong.Token}
	return explained.FormatError(false, true)
}
