package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// scripted is a row whose rounds come to what is given: ours and the reference in turns.
func scripted(r row, figures ...float64) row {
	r.run = func(context.Context, int) (ours, reference float64, err error) {
		if len(figures) < 2 {
			return 0, 0, errors.New("no more figures")
		}
		ours, reference, figures = figures[0], figures[1], figures[2:]
		return ours, reference, nil
	}
	return r
}

func TestMeasure(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		row     row
		figures []float64
		want    result
	}{
		"medians of an odd number of rounds, and the median of their ratios": {
			row{target: 2},
			[]float64{30, 10, 10, 10, 50, 20},
			result{Ours: 30, Reference: 10, Ratio: 2.5, Min: 1, Max: 3, Pass: true, Rounds: 3},
		},
		"of an even number": {
			row{target: 2},
			[]float64{10, 10, 20, 10},
			result{Ours: 15, Reference: 10, Ratio: 1.5, Min: 1, Max: 2, Pass: false, Rounds: 2},
		},
		"just the target": {
			row{target: 0.9},
			[]float64{9, 10},
			result{Ours: 9, Reference: 10, Ratio: 0.9, Min: 0.9, Max: 0.9, Pass: true, Rounds: 1},
		},
		"a ratio of times passes below its target": {
			row{target: 1.35, atMost: true},
			[]float64{80, 100},
			result{Ours: 80, Reference: 100, Ratio: 1.25, Min: 1.25, Max: 1.25, Pass: true, Rounds: 1},
		},
		"and fails above": {
			row{target: 1.35, atMost: true},
			[]float64{50, 100},
			result{Ours: 50, Reference: 100, Ratio: 2, Min: 2, Max: 2, Pass: false, Rounds: 1},
		},
		"a unit has no reference": {
			row{target: 64, atMost: true, unit: "MiB"},
			[]float64{64, 0, 60, 0, 70, 0},
			result{Ours: 64, Ratio: 64, Min: 60, Max: 70, Pass: true, Rounds: 3},
		},
		"and fails above its target, too": {
			row{target: 64, atMost: true, unit: "MiB"},
			[]float64{65, 0},
			result{Ours: 65, Ratio: 65, Min: 65, Max: 65, Pass: false, Rounds: 1},
		},
		"no more rounds than the row may have": {
			row{target: 1, rounds: 1},
			[]float64{1, 1, 2, 1},
			result{Ours: 1, Reference: 1, Ratio: 1, Min: 1, Max: 1, Pass: true, Rounds: 1},
		},
	} {
		c.row.name = "row"
		c.want.Name, c.want.Messages, c.want.Target, c.want.AtMost, c.want.Unit = "row", 77, c.row.target, c.row.atMost, c.row.unit
		have, err := measure(t.Context(), scripted(c.row, c.figures...), len(c.figures)/2, 77)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.want, have); diff != "" {
			t.Errorf("%s (-want +have):\n%s", name, diff)
		}
	}
}

// Both sides have their turn in each round, and neither is always the first.
func TestByTurns(t *testing.T) {
	t.Parallel()
	began := map[string]int{}
	for range 64 {
		var order []string
		turn := func(who string, rate float64) func() (float64, error) {
			return func() (float64, error) { order = append(order, who); return rate, nil }
		}
		ours, ref, err := byTurns(turn("ours", 3), turn("reference", 2))
		if ours != 3 || ref != 2 || err != nil || len(order) != 2 || order[0] == order[1] {
			t.Fatalf("%v and %v (%v) from %q, want 3 and 2 from a turn each", ours, ref, err, order)
		}
		began[order[0]]++
	}
	if len(began) != 2 {
		t.Errorf("of 64 rounds %v were the first, want each now and then", began)
	}
	broken := func() (float64, error) { return 0, errors.New("away") }
	fine := func() (float64, error) { return 1, nil }
	for range 8 {
		if _, _, err := byTurns(broken, fine); err == nil {
			t.Error("an error of ours is not told")
		}
		if _, _, err := byTurns(fine, broken); err == nil {
			t.Error("an error of the reference is not told")
		}
	}
}

// fake rows stand for those that need servers.
func fakes() []row {
	return []row{
		scripted(row{name: "relay-raw", target: 1, what: "first"}, 30, 20, 30, 20, 30, 20, 30, 20, 30, 20),
		scripted(row{name: "relay-raw-bare", target: 2, what: "second"}, 30, 20, 30, 20, 30, 20, 30, 20, 30, 20),
		scripted(row{name: "memory", target: 64, atMost: true, unit: "MiB", what: "third", rounds: 1, slow: true}, 35, 0),
		scripted(row{name: "broken", what: "fourth"}),
	}
}

func TestCommand(t *testing.T) {
	t.Parallel()
	const first = "relay-raw                 30/s against        20/s: 1.50 × (1.50 to 1.50 in 5 rounds), target 1.00 ×: pass\n    first\n"
	const second = "relay-raw-bare            30/s against        20/s: 1.50 × (1.50 to 1.50 in 5 rounds), target 2.00 ×: FAIL\n    second\n"
	const third = "memory                  35.0 MiB (35.0 to 35.0 in 1 rounds), target at most 64: pass\n    third\n"
	for args, c := range map[string]struct {
		code     int
		out, err string // err is part of what is said
	}{
		"":                               {1, first + second + third, "bench: broken: no more figures"},
		"-quick":                         {1, first + second, "bench: broken: no more figures"},
		"-only relay-raw":                {0, first, ""},
		"--only memory":                  {0, third, ""},
		"-only relay":                    {2, "", `-only is "relay": use one of relay-raw, relay-raw-bare, memory, broken`},
		"-only relay-raw -rounds 0":      {2, "", "-rounds is 0: use 1 or more"},
		"-only relay-raw -messages -1":   {2, "", "-messages is -1: use 20 or more"},
		"relay-raw":                      {2, "", `"relay-raw" is no flag: use -only NAME`},
		"-unknown":                       {2, "", "flag provided but not defined: -unknown"},
		"-h":                             {0, "", "relay-raw, relay-raw-bare, memory, broken"},
		"-only relay-raw-bare -rounds 1": {0, strings.Replace(second, "5 rounds", "1 rounds", 1), ""},
	} {
		var out, errs bytes.Buffer
		if code := run(t.Context(), fakes(), strings.Fields(args), &out, &errs); code != c.code {
			t.Errorf("bench %s: exit code %d, want %d", args, code, c.code)
		}
		if diff := cmp.Diff(c.out, out.String()); diff != "" {
			t.Errorf("bench %s (-want +have):\n%s", args, diff)
		}
		if !strings.Contains(errs.String(), c.err) || c.err == "" && errs.Len() > 0 {
			t.Errorf("bench %s says %q, want %q", args, errs.String(), c.err)
		}
	}
}

// Machines get one object a line, and all fields that README.md lists.
func TestJSON(t *testing.T) {
	t.Parallel()
	var out, errs bytes.Buffer
	if code := run(t.Context(), fakes()[:3], []string{"--json", "--rounds", "2", "--messages", "40"}, &out, &errs); code != 0 {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	var have []map[string]any
	for line := range strings.Lines(out.String()) {
		var one map[string]any
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		have = append(have, one)
	}
	pair := func(name string, target float64, pass bool) map[string]any {
		return map[string]any{
			"name": name, "ours_per_second": 30.0, "reference_per_second": 20.0, "ratio": 1.5, "ratio_min": 1.5, "ratio_max": 1.5,
			"target": target, "pass": pass, "rounds": 2.0, "messages": 40.0,
		}
	}
	want := []map[string]any{pair("relay-raw", 1, true), pair("relay-raw-bare", 2, false), {
		"name": "memory", "ours_per_second": 35.0, "ratio": 35.0, "ratio_min": 35.0, "ratio_max": 35.0,
		"target": 64.0, "at_most": true, "unit": "MiB", "pass": true, "rounds": 1.0, "messages": 40.0,
	}}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("printed (-want +have):\n%s", diff)
	}
	page := readme(t)
	for _, one := range want {
		for _, field := range slices.Sorted(maps.Keys(one)) {
			if !strings.Contains(page, fmt.Sprintf("`%s`", field)) {
				t.Errorf("README.md does not say what %s is", field)
			}
		}
	}
}
