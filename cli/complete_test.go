package cli_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lockstep-go/lockstep/cli"
	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/outbox"
)

// A shell is offered what a flag takes, and files only where one is meant.
func TestCompletionOfValues(t *testing.T) {
	t.Parallel()
	config := writeFile(t, "lockstep.yaml", "entities:\n  author: {table: authors}\nreplicas:\n  book: {table: books}\n  broken: {}\n")
	const nothing, file, yaml, names = ":4", ":0", ":8", ":6"
	for line, want := range map[string]string{
		"run --log-level":                              "debug info warn error " + nothing,
		"run --log-format":                             "text json " + nothing,
		"run --unroutable":                             "drop retry dead " + nothing,
		"run --unroutable-direct":                      "drop retry dead " + nothing,
		"migrate table x --dialect":                    "postgres mysql sqlite " + nothing,
		"run --database-url":                           nothing,
		"consume --config":                             "yaml yml " + yaml,
		"load --input":                                 file,
		"dump --output":                                file,
		"trace":                                        "account shelf " + nothing,
		"trace --config " + config:                     "account author book broken shelf " + nothing,
		"trace account":                                nothing,
		"dump --config " + config + " --cqrs-id":       "account author book broken shelf " + nothing,
		"failures list --cqrs-id":                      "account shelf " + nothing,
		"consume --config " + config + " --entities":   "account author book broken shelf " + names,
		"consume --config /no/such/file --entities":    "account shelf " + names,
		"consume --config " + config + " --max-parked": nothing,
	} {
		var out, stderr bytes.Buffer
		code := cli.Main(t.Context(), append(append([]string{"__completeNoDesc"}, args(line)...), ""), &out, &stderr,
			cli.WithEntities(outbox.Entity{ID: "account", Table: "accounts"}),
			cli.WithReplicas("billing", func(c *consumer.Consumer) error { return c.Table("shelf", consumer.Table{Name: "shelves"}) }))
		if have := strings.Join(strings.Fields(out.String()), " "); code != 0 || have != want {
			t.Errorf("relay %s <TAB>: exit code %d, have %s, want %s\n%s", line, code, have, want, stderr.String())
		}
	}
	have := mustRelay(t, "__complete", "consume", "--config", config, "--entities", "book,")
	if diff := cmp.Diff("book,author\nbook,broken\n:6\n", have); diff != "" {
		t.Errorf("behind a comma (-want +have):\n%s", diff)
	}
}

// Help has the names of the flags' values, of which a completion shows no back quotes.
func TestCompletionShowsNoQuotes(t *testing.T) {
	t.Parallel()
	if have := mustRelay(t, "run", "--help"); !strings.Contains(have, "--lease time ") {
		t.Errorf("help lacks the name of a value: %s", have)
	}
	for _, cmd := range commands(cli.New()) {
		path := args(strings.TrimPrefix(cmd.CommandPath(), "relay"))
		have := mustRelay(t, append(append([]string{"__complete"}, path...), "--")...)
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if !strings.Contains(have, "--"+f.Name+"\t"+f.Usage+"\n") && f.Name != "help" {
				t.Errorf("%s: --%s is not offered with its description: %s", cmd.CommandPath(), f.Name, have)
			}
		})
		if cmd.HasSubCommands() {
			have += mustRelay(t, append(append([]string{"__complete"}, path...), "")...)
		}
		if strings.Contains(have, "`") {
			t.Errorf("completion of %s has back quotes: %s", cmd.CommandPath(), have)
		}
	}
	root := &cobra.Command{Use: "shop"}
	root.AddCommand(cli.New())
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs([]string{"__complete", "relay", "run", "--lea"})
	if err := root.ExecuteContext(t.Context()); err != nil || !strings.Contains(out.String(), "--lease\ttime after which") {
		t.Errorf("mounted: %v, %s", err, out.String())
	}
}
