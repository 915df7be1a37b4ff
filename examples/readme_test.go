// Package examples holds two services to copy from. The documentation shows parts of them.
package examples

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// <!-- examples/FILE: PART --> stands before what the page shows of a file.
var shown = regexp.MustCompile("(?s)<!-- examples/(\\S+): (\\w+) -->\n```go\n(.*?)```")

// The Go of the documentation is what the examples really do.
func TestDocumentationShowsTheExamples(t *testing.T) {
	t.Parallel()
	for page, parts := range map[string][]string{
		"../README.md": {"master/main.go: write", "replica/main.go: apply"},
		"../docs/migrating-from-django-cqrs.md": {
			"django/django.go: replica", "django/django.go: master", "django/django.go: save", "django/django.go: names",
		},
	} {
		var have []string
		for _, m := range shown.FindAllStringSubmatch(read(t, page), -1) {
			file, part, text := m[1], m[2], m[3]
			have = append(have, file+": "+part)
			if diff := cmp.Diff(marked(t, file, part), text); diff != "" {
				t.Errorf("%s: examples/%s: %s (-file +page):\n%s", page, file, part, diff)
			}
		}
		if diff := cmp.Diff(parts, have); diff != "" {
			t.Errorf("%s: parts of examples (-want +shown):\n%s", page, diff)
		}
	}
}

// marked returns what stands in a file between "// tour: PART" and "// end", less
// indented by what stands before these.
func marked(t *testing.T, file, part string) string {
	t.Helper()
	before, text, found := strings.Cut(read(t, file), "// tour: "+part+"\n")
	if !found {
		t.Fatalf("%s marks no part %s", file, part)
	}
	indent := before[strings.LastIndexByte(before, '\n')+1:]
	text, _, _ = strings.Cut(text, "\n"+indent+"// end\n")
	var b strings.Builder
	for line := range strings.Lines(strings.Trim(text, "\n") + "\n") {
		b.WriteString(strings.TrimPrefix(line, indent))
	}
	return b.String()
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
