package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/internal/dialect"
	"github.com/lockstep-go/lockstep/reconcile"
)

// loadCommand is `relay load`.
type loadCommand struct {
	tool
	input   string
	options reconcile.LoadOptions
}

func newLoad(svc *service) *cobra.Command {
	c := loadCommand{tool: tool{settings: settings{service: svc}}}
	cmd := &cobra.Command{
		Use:   "load",
		Short: "Apply a dump to the replica table that follows its entity",
		Long: `Apply a dump, of ` + "`relay dump`" + ` or of django-cqrs's cqrs_bulk_dump, to the replica
table that follows its entity. Rows that are here in the same or a newer revision
stay. A row that does not fit is reported with its line and hinders no other; the
exit code is 1 then. All of it is one transaction, --clear too, unless --apart
asks for one a batch.

Where rows of other tables refer to the table, --clear is refused, or with ON DELETE
CASCADE deletes them, too. Load without it then, and let ` + "`relay deleted`" + ` find what
the master lacks.`,
		Example: `  relay load --input account.dump.gz --config lockstep.yaml
  ssh shop ./manage.py cqrs_bulk_dump -c account -o - | relay load --input - --clear`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd) },
	}
	c.common(cmd)
	c.jsonFlag(cmd)
	f := cmd.Flags()
	f.StringVarP(&c.input, "input", "i", "", "`file` to read, - for standard input; .gz is compressed")
	f.BoolVar(&c.options.Clear, "clear", false, "delete all rows of the table first")
	f.BoolVar(&c.options.Apart, "apart", false, "make each batch a transaction of its own")
	return cmd
}

func (c *loadCommand) run(cmd *cobra.Command) error {
	if err := c.check(cmd, flagDatabase); err != nil {
		return err
	}
	if c.input == "" {
		return misusef("--input is missing: name a file, or - for standard input")
	}
	in, err := openInput(cmd, c.input)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	return c.withReplica(cmd.Context(), func(to reconcile.Replica) error { return c.load(cmd, in, to) })
}

func (c *loadCommand) load(cmd *cobra.Command, in *input, to reconcile.Replica) error {
	p := newProgress(cmd, c.quiet, "load", 0)
	p.share = in.share
	defer p.end()
	c.options.Batch, c.options.Progress = c.batch, p.report
	c.options.Failed = func(line int, err error) {
		p.end()
		fmt.Fprintf(cmd.ErrOrStderr(), "line %d: %v\n", line, err)
	}
	result, err := reconcile.Load(cmd.Context(), in, to, c.options)
	p.end()
	if errors.Is(err, consumer.ErrUnknownEntity) {
		err = fmt.Errorf("%w; or this is no dump, whose first line is the CQRS ID alone", err)
	}
	if c.options.Clear && dialect.IsReferred(err) {
		err = fmt.Errorf("%w: rows of another table refer to these: load without --clear, which brings each row up to date, "+
			"and delete what the master lacks by `relay deleted`", err)
	}
	switch {
	case err != nil && c.options.Apart:
		return fmt.Errorf("%w: %s cleared and %d loaded before that stay so", err, howMany(result.Cleared, "row"), result.Applied)
	case err != nil:
		return fmt.Errorf("%w: nothing was changed", err)
	}
	if c.asJSON {
		if err := printJSON(cmd, result); err != nil {
			return err
		}
	} else {
		cleared := ""
		if c.options.Clear {
			cleared = howMany(result.Cleared, "row") + " cleared, "
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s: %s%s loaded, %d skipped, %d failed\n", result.Entity, cleared, howMany(result.Applied, "row"), result.Skipped, result.Failed)
	}
	if result.Failed > 0 {
		return fmt.Errorf("%s of %s %s; the others are loaded", howMany(result.Failed, "row"), result.Entity, plural(result.Failed, "does not fit", "do not fit"))
	}
	return nil
}
