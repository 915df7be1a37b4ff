package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// row is one comparison.
type row struct {
	name   string
	target float64
	what   string
	atMost bool   // the target is the most, and the ratio one of times
	unit   string // of ours, which has no reference then; default messages a second
	rounds int    // at most; 0: as many as asked for
	slow   bool   // takes minutes
	// run does one round and returns messages a second of both sides.
	run func(ctx context.Context, messages int) (ours, reference float64, err error)
}

// result is a row after all rounds.
type result struct {
	Name      string  `json:"name"`
	Ours      float64 `json:"ours_per_second"`                // median; in the unit where there is one
	Reference float64 `json:"reference_per_second,omitempty"` // median; none where there is a unit
	Ratio     float64 `json:"ratio"`                          // median of the rounds' ratios; ours where there is a unit
	Min       float64 `json:"ratio_min"`
	Max       float64 `json:"ratio_max"`
	Target    float64 `json:"target"`
	AtMost    bool    `json:"at_most,omitempty"` // the target is an upper bound
	Unit      string  `json:"unit,omitempty"`
	Pass      bool    `json:"pass"`
	Rounds    int     `json:"rounds"`
	Messages  int     `json:"messages"`
}

// String is the result for people.
func (r result) String() string {
	verdict := "pass"
	if !r.Pass {
		verdict = "FAIL"
	}
	bound := ""
	if r.AtMost {
		bound = "at most "
	}
	if r.Unit != "" {
		return fmt.Sprintf("%-18s %9.1f %s (%.1f to %.1f in %d rounds), target %s%.0f: %s",
			r.Name, r.Ours, r.Unit, r.Min, r.Max, r.Rounds, bound, r.Target, verdict)
	}
	return fmt.Sprintf("%-18s %9.0f/s against %9.0f/s: %.2f × (%.2f to %.2f in %d rounds), target %s%.2f ×: %s",
		r.Name, r.Ours, r.Reference, r.Ratio, r.Min, r.Max, r.Rounds, bound, r.Target, verdict)
}

// measure does the rounds of a row.
func measure(ctx context.Context, r row, rounds, messages int) (result, error) {
	if r.rounds > 0 {
		rounds = min(rounds, r.rounds)
	}
	var ours, reference, ratios []float64
	for range rounds {
		ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
		o, ref, err := r.run(ctx, messages)
		cancel()
		if err != nil {
			return result{}, err
		}
		ratio := o / ref
		switch {
		case r.unit != "":
			ratio = o
		case r.atMost:
			ratio = ref / o // of times, where o and ref are rates
		}
		ours, reference, ratios = append(ours, o), append(reference, ref), append(ratios, ratio)
	}
	res := result{
		Name: r.name, Ours: median(ours), Reference: median(reference), Ratio: median(ratios),
		Min: slices.Min(ratios), Max: slices.Max(ratios), Target: r.target, AtMost: r.atMost, Unit: r.unit, Rounds: rounds, Messages: messages,
	}
	res.Pass = res.Ratio >= r.target
	if r.atMost {
		res.Pass = res.Ratio <= r.target
	}
	return res, nil
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 1 {
		return v[n/2]
	} else {
		return (v[n/2-1] + v[n/2]) / 2
	}
}
