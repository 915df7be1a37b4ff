package cli

import (
	"fmt"
	"strings"
)

// howMany is a number of things in words: 1 row, 2 rows.
func howMany[N int | int64](n N, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// plural is a word in its form for so many.
func plural[N int | int64](n N, one, several string) string {
	if n == 1 {
		return one
	}
	return several
}

// firstLine is the first line of an error, without such as a panic's stack. In a header,
// " | " stands between lines.
func firstLine(text string) string {
	line, rest, _ := strings.Cut(strings.ReplaceAll(strings.TrimSpace(text), " | ", "\n"), "\n")
	if line = strings.TrimRight(line, " \r"); rest != "" {
		line += " …"
	}
	return line
}
