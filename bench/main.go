// Command bench measures Lockstep against what it is compared with, in the same
// run and by turns, and prints ratios. See README.md beside it.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"
)

// row is one comparison.
type row struct {
	name   string
	target float64
	what   string
	atMost bool   // the target is the most, and the ratio one of times
	unit   string // of ours; default messages a second
	rounds int    // at most; 0: as many as asked for
	slow   bool   // takes minutes
	// run does one round and returns messages a second of both sides.
	run func(ctx context.Context, messages int) (ours, reference float64, err error)
}

// result is a row after all rounds.
type result struct {
	Name      string  `json:"name"`
	Ours      float64 `json:"ours_per_second"`      // median
	Reference float64 `json:"reference_per_second"` // median
	Ratio     float64 `json:"ratio"`                // median of the rounds' ratios
	Min       float64 `json:"ratio_min"`
	Max       float64 `json:"ratio_max"`
	Target    float64 `json:"target"`
	AtMost    bool    `json:"at_most,omitempty"` // the target is an upper bound
	Unit      string  `json:"unit,omitempty"`
	Pass      bool    `json:"pass"`
	Rounds    int     `json:"rounds"`
	Messages  int     `json:"messages"`
}

var rows = []row{relayForwarder, relayRaw, relayRawBare, relayJetStream, relayOpen, relayCollapse, relayBacklog, relayMemory, endToEnd, apply, writerOne, writerEight}

func main() {
	only := flag.String("only", "", "run the rows whose name contains this")
	quick := flag.Bool("quick", false, "leave out the rows that take minutes")
	asJSON := flag.Bool("json", false, "print one JSON object a row")
	rounds := flag.Int("rounds", 5, "rounds of each row; both sides take turns")
	messages := flag.Int("messages", 20_000, "messages of a round")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	for _, r := range rows {
		if !strings.Contains(r.name, *only) || *quick && r.slow {
			continue
		}
		res, err := measure(ctx, r, *rounds, *messages)
		if err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s: %v\n", r.name, err)
			os.Exit(1)
		}
		if *asJSON {
			_ = json.NewEncoder(os.Stdout).Encode(res)
			continue
		}
		verdict := "pass"
		if !res.Pass {
			verdict = "FAIL"
		}
		if r.unit != "" {
			fmt.Printf("%-18s %9.1f %s, target at most %.0f: %s\n    %s\n", res.Name, res.Ours, r.unit, res.Target, verdict, r.what)
			continue
		}
		fmt.Printf("%-18s %9.0f/s against %9.0f/s: %.2f × (%.2f to %.2f in %d rounds), target %.2f ×: %s\n    %s\n",
			res.Name, res.Ours, res.Reference, res.Ratio, res.Min, res.Max, res.Rounds, res.Target, verdict, r.what)
	}
}

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
		if r.atMost && r.unit == "" {
			ratio = ref / o // of times, where o and ref are rates
		}
		ours, reference, ratios = append(ours, o), append(reference, ref), append(ratios, ratio)
	}
	res := result{
		Name: r.name, Ours: median(ours), Reference: median(reference), Ratio: median(ratios),
		Min: slices.Min(ratios), Max: slices.Max(ratios), Target: r.target, Rounds: rounds, Messages: messages,
	}
	res.AtMost, res.Unit = r.atMost, r.unit
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
