// Package cli is the relay command. A service with code of its own can mount the
// same commands in its binary: [New] returns them as a cobra command.
//
// A flag goes before an environment variable, that before the configuration file;
// docs/configuration.md lists them. Exit codes are 0 for done, 1 for failed or broken
// off, 2 for used wrongly.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lockstep-go/lockstep/internal/dialect"
)

// Exit codes of [Main].
const (
	exitDone   = 0
	exitFailed = 1
	exitMisuse = 2
)

// Main runs the relay command with the arguments behind the program's name and
// returns its exit code. Results go to stdout, logs and errors to stderr. When
// ctx ends, a running command drains and returns.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer, options ...Option) int {
	root := New(options...)                   //nolint:contextcheck // cobra hands ctx on
	root.SetArgs(append([]string{}, args...)) // nil would be the process's own
	root.SetOut(stdout)
	root.SetErr(stderr)
	guardBuiltins(root)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	text := strings.TrimPrefix(err.Error(), "relay: ")
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || dialect.Classify(err) == dialect.Canceled) { // or the server says so
		text = "interrupted: " + text
	}
	fmt.Fprintf(stderr, "relay: %s\n", text)
	var misuse *misuseError
	if errors.As(err, &misuse) {
		if misuse.hint != "" {
			fmt.Fprintf(stderr, "%s\n", misuse.hint)
		}
		return exitMisuse
	}
	return exitFailed
}

// New returns the relay command with all its subcommands. The options declare
// what a service that mounts it would otherwise declare in lockstep.yaml.
func New(options ...Option) *cobra.Command {
	svc := &service{}
	for _, option := range options {
		option(svc)
	}
	root := &cobra.Command{
		Use:   "relay",
		Short: "Forward a transactional outbox, and keep replicas in step",
		Long: `relay forwards the events that services commit to their outbox tables to a
broker, and applies them to replica tables.

See it work, with no server:   relay demo`,
		Example: `  relay run --database-url postgres://localhost/shop --broker-url amqp://localhost/
  relay consume --config lockstep.yaml --database-url postgres://localhost/billing --broker-url amqp://localhost/
  relay doctor --config lockstep.yaml
  source <(relay completion bash)`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(flagMisuse)
	root.AddCommand(newRun(svc), newConsume(svc), newMigrate(), newDemo(), newVersion(),
		newSync(svc), newDump(svc), newLoad(svc), newDiff(svc), newDeleted(svc), newDeadLetters(svc), newFailures(svc), newStatus(svc), newDoctor(svc), newTrace(svc))
	makeCompletable(svc, root)
	root.SetUsageFunc(showUsage)
	return root
}

// misuseError is a mistake of the person who called the command.
type misuseError struct {
	err  error
	hint string
}

func (e *misuseError) Error() string { return e.err.Error() }
func (e *misuseError) Unwrap() error { return e.err }

func misusef(format string, args ...any) error { return &misuseError{err: fmt.Errorf(format, args...)} }

func seeHelp(cmd *cobra.Command, err error) error {
	return &misuseError{err: err, hint: "See `" + cmd.CommandPath() + " --help`."}
}

// flagMisuse makes an error about flags one of misuse. What was typed may be a
// URL with its password: above all -database-url=…, with one dash.
func flagMisuse(cmd *cobra.Command, err error) error {
	var unknown interface {
		error
		GetSpecifiedShortnames() string
	}
	if errors.As(err, &unknown) {
		if name, _, _ := strings.Cut(unknown.GetSpecifiedShortnames(), "="); cmd.Flags().Lookup(name) != nil {
			return seeHelp(cmd, fmt.Errorf("unknown flag -%s: write --%s, with two dashes", name, name))
		}
	}
	var invalid interface {
		error
		GetFlag() *pflag.Flag
		GetValue() string
	}
	if errors.As(err, &invalid) {
		if form, known := formOf[invalid.GetFlag().Value.Type()]; known {
			return seeHelp(cmd, fmt.Errorf("--%s is %q: use %s", invalid.GetFlag().Name, hideURLs(invalid.GetValue()), form))
		}
	}
	return seeHelp(cmd, errors.New(hideURLs(err.Error())))
}

// formOf is what a flag's value has to look like, by pflag's name of its type.
var formOf = map[string]string{
	"duration": "a time with its unit, such as 300ms, 2s, 5m or 24h",
	"int":      "a whole number",
	"bool":     "true or false",
}

// noArgs refuses arguments. A command that has commands takes them for names.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	arg := hideURLs(args[0])
	if !cmd.HasSubCommands() {
		return seeHelp(cmd, fmt.Errorf("%s takes flags only, and %q is none", cmd.CommandPath(), arg))
	}
	text := fmt.Sprintf("unknown command %q for %q", arg, cmd.CommandPath())
	cmd.SuggestionsMinimumDistance = 2 // letters
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		text += ": did you mean " + strings.Join(near, " or ") + "?"
	}
	return seeHelp(cmd, errors.New(text))
}

// guardBuiltins makes cobra's own commands, which overlook a wrong argument,
// treat it as misuse.
func guardBuiltins(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Args = func(_ *cobra.Command, args []string) error {
				if found, rest, err := root.Find(args); err != nil || len(rest) > 0 {
					return noArgs(found, args[len(args)-max(len(rest), 1):])
				}
				return nil
			}
		case "completion":
			cmd.Args = noArgs
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
			for _, shell := range cmd.Commands() {
				shell.Args = noArgs
			}
		}
	}
}
