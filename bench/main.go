// Command bench measures Lockstep against what it is compared with, in the same
// run and by turns, and prints ratios. See README.md beside it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
)

var rows = []row{relayForwarder, relayRaw, relayRawBare, relayJetStream, relayOpen, relayCollapse, relayBacklog, relayMemory, endToEnd, apply, writerOne, writerEight}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := run(ctx, rows, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run measures the rows that args ask for. It returns the exit code: 0 when all were
// measured, whether they meet their targets or not, 1 when one could not be, 2 for
// arguments that are wrong.
func run(ctx context.Context, rows []row, args []string, out, errs io.Writer) (code int) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(errs)
	only := flags.String("only", "", "run the row of this `name` alone: "+strings.Join(names(rows), ", "))
	quick := flags.Bool("quick", false, "leave out the rows that take minutes")
	asJSON := flags.Bool("json", false, "print one JSON object a row")
	rounds := flags.Int("rounds", 5, "`times` that each row is measured; both sides take turns")
	messages := flags.Int("messages", 20_000, "`number` of messages of a round")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2 // it has been said
	}
	wrong := func(format string, args ...any) int {
		fmt.Fprintf(errs, "bench: "+format+"\n", args...)
		return 2
	}
	switch {
	case flags.NArg() > 0:
		return wrong("%q is no flag: use -only NAME", flags.Arg(0))
	case *only != "" && !slices.Contains(names(rows), *only):
		return wrong("-only is %q: use one of %s", *only, strings.Join(names(rows), ", "))
	case *rounds < 1:
		return wrong("-rounds is %d: use 1 or more", *rounds)
	case *messages < fewest:
		return wrong("-messages is %d: use %d or more", *messages, fewest)
	}
	for _, r := range rows {
		if *only != "" && r.name != *only || *quick && r.slow {
			continue
		}
		res, err := measure(ctx, r, *rounds, *messages)
		if err != nil {
			fmt.Fprintf(errs, "bench: %s: %v\n", r.name, err)
			return 1
		}
		if *asJSON {
			_ = json.NewEncoder(out).Encode(res)
			continue
		}
		fmt.Fprintf(out, "%s\n    %s\n", res, r.what)
	}
	return 0
}

// fewest is how many messages a round must have for all sides to have some.
const fewest = 20

func names(rows []row) (all []string) {
	for _, r := range rows {
		all = append(all, r.name)
	}
	return all
}
