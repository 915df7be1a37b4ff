// Package cli is the relay command. A service with code of its own can mount the
// same commands in its binary: [New] returns them as a cobra command.
//
// Every setting can be a flag or an environment variable; the flag wins. Exit
// codes are 0 for done, 1 for failed, 2 for used wrongly.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
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
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := New()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	fmt.Fprintf(stderr, "relay: %s\n", strings.TrimPrefix(err.Error(), "relay: "))
	var misuse *misuseError
	if errors.As(err, &misuse) {
		if misuse.hint != "" {
			fmt.Fprintf(stderr, "%s\n", misuse.hint)
		}
		return exitMisuse
	}
	return exitFailed
}

// New returns the relay command with all its subcommands.
func New() *cobra.Command {
	root := &cobra.Command{
		Use:   "relay",
		Short: "Forward a transactional outbox, and keep replicas in step",
		Long: `relay forwards the events that services commit to their outbox tables to a
broker, and applies them to replica tables.

See it work, with no server:   relay demo`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          misused(cobra.NoArgs),
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &misuseError{err: err, hint: "See `" + cmd.CommandPath() + " --help`."}
	})
	root.AddCommand(newRun(), newConsume(), newMigrate(), newDemo(), newVersion())
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

// misused makes the errors of an argument check those of misuse.
func misused(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return &misuseError{err: err, hint: "See `" + cmd.CommandPath() + " --help`."}
		}
		return nil
	}
}
