// Package examples holds two services to copy from. The README shows parts of them.
package examples

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The README's Go is what the examples really do.
func TestReadmeShowsTheExamples(t *testing.T) {
	t.Parallel()
	readme := read(t, "../README.md")
	for _, file := range []string{"master/main.go", "replica/main.go"} {
		_, shown, found := strings.Cut(readme, "<!-- examples/"+file+" -->\n```go\n")
		if !found {
			t.Errorf("the README does not show examples/%s", file)
			continue
		}
		shown, _, _ = strings.Cut(shown, "```")
		if diff := cmp.Diff(tour(t, file), shown); diff != "" {
			t.Errorf("examples/%s (-file +README):\n%s", file, diff)
		}
	}
}

// tour returns the marked part of a file, one tab less indented.
func tour(t *testing.T, file string) string {
	t.Helper()
	_, marked, found := strings.Cut(read(t, file), "\t// tour: ")
	if !found {
		t.Fatalf("%s marks no part for the README", file)
	}
	_, marked, _ = strings.Cut(marked, "\n")
	marked, _, _ = strings.Cut(marked, "\t// end\n")
	var b strings.Builder
	for line := range strings.Lines(marked) {
		b.WriteString(strings.TrimPrefix(line, "\t"))
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
