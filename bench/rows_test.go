package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// Every row can be measured: both of its sides do their work, here with so few messages
// that the figures say nothing.
func TestEveryRow(t *testing.T) {
	t.Parallel()
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			have, err := measure(t.Context(), r, 1, 200)
			if err != nil {
				t.Fatal(err)
			}
			if have.Ours <= 0 || have.Reference <= 0 && r.unit == "" {
				t.Errorf("%s: want something on both sides", have)
			}
		})
	}
}

func readme(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// README.md has each row in its table, with its target, and no others.
func TestRowsAreDocumented(t *testing.T) {
	t.Parallel()
	documented := map[string]string{} // targets by name
	for line := range strings.Lines(readme(t)) {
		cells := strings.Split(line, " | ")
		if !strings.HasPrefix(line, "| `") || len(cells) != 4 {
			continue
		}
		for _, name := range strings.Split(strings.Trim(cells[0], "| "), ", ") {
			documented[strings.Trim(name, "`")] = strings.TrimSuffix(strings.TrimSpace(cells[3]), " |")
		}
	}
	for _, r := range rows {
		bound, unit := "≥", "×"
		if r.atMost {
			bound = "≤"
		}
		if r.unit != "" {
			unit = r.unit
		}
		want := fmt.Sprintf("%s %s %s", bound, strconv.FormatFloat(r.target, 'g', -1, 64), unit)
		if have := documented[r.name]; have != want {
			t.Errorf("the target of %s in README.md is %q, want %q", r.name, have, want)
		}
		delete(documented, r.name)
	}
	if len(documented) > 0 {
		t.Errorf("README.md has rows that are not measured: %v", documented)
	}
}
