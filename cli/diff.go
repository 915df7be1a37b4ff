package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lockstep-go/lockstep/outbox"
	"github.com/lockstep-go/lockstep/reconcile"
)

const flagMaster = "master-url"

// diffCommand is `relay diff` and its steps.
type diffCommand struct {
	tool
	masterURL, replicaURL string
	fields, exitCode      bool
	rate                  string
}

func newDiff(svc *service) *cobra.Command {
	c := diffCommand{tool: tool{settings: settings{service: svc}}}
	cmd := &cobra.Command{
		Use:   "diff",
		Short: "Compare a master with a replica, and mend what differs",
		Long: `Compare a master with a replica: at once, when both databases can be reached
from here, or in three steps that are joined by pipes and may run on different
machines. Either end of a pipe may be django-cqrs's command of the same purpose.

At once, each row that differs is printed: missing (the replica lacks it), extra
(the master lacks it), revision or, with --fields, which values differ. Events
under way show up, too. With --filter, rows the replica has too many are not
looked for.`,
		Example: `  relay diff --cqrs-id account --master-url postgres://localhost/shop --replica-url postgres://localhost/billing --fields
  relay diff master --cqrs-id account | ssh billing relay diff replica | relay diff sync
  ./manage.py cqrs_diff_master --cqrs-id account | relay diff replica | ./manage.py cqrs_diff_sync`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.round(cmd) },
	}
	c.configFlag(cmd)
	quietFlag(cmd, &c.quiet)
	c.entityFlag(cmd)
	c.filterFlag(cmd, "all rows")
	c.jsonFlag(cmd)
	f := cmd.Flags()
	f.StringVar(&c.masterURL, flagMaster, "", "`URL` of the master's database")
	f.StringVar(&c.replicaURL, flagReplica, "", "`URL` of the replica's database")
	f.BoolVar(&c.fields, "fields", false, "compare the values, too")
	f.BoolVar(&c.exitCode, "exit-code", false, "exit with 1 when anything differs")
	f.IntVar(&c.batch, flagBatch, reconcile.DefaultBatch, "`rows` that are compared at once")
	cmd.AddCommand(newDiffMaster(svc), newDiffReplica(svc), newDiffSync(svc))
	return cmd
}

func (c *diffCommand) round(cmd *cobra.Command) error {
	faults := []error{c.check(cmd)}
	for flag, url := range map[string]string{flagMaster: c.masterURL, flagReplica: c.replicaURL} {
		if url == "" {
			faults = append(faults, misusef("--%s is missing: give both databases, or use `diff master`, `diff replica` and `diff sync`", flag))
		} else if err := checkDatabaseURL(url); err != nil {
			faults = append(faults, misusef("--%s: %w", flag, err))
		}
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	file, err := c.readConfig()
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	return withMaster(ctx, file, c.masterURL, func(m reconcile.Master) error {
		return withReplica(ctx, file, c.replicaURL, "", func(to reconcile.Replica) error { return c.compare(ctx, cmd, m, to) })
	})
}

func (c *diffCommand) compare(ctx context.Context, cmd *cobra.Command, m reconcile.Master, to reconcile.Replica) error {
	total, err := m.Outbox.Count(ctx, m.DB, c.entity, c.orAll())
	if err != nil {
		return inDatabase(c.masterURL, flagMaster, err)
	}
	if c.orAll() == outbox.All {
		total *= 2 // both ways
	}
	p := newProgress(cmd, c.quiet, "diff "+c.entity, total)
	defer p.end()
	var failed error
	ahead := false
	summary, err := reconcile.Compare(ctx, m, to, c.entity, reconcile.CompareOptions{
		Filter: c.orAll(), Fields: c.fields, Batch: c.batch, Progress: p.report,
		Found: func(d reconcile.Difference) {
			p.end()
			ahead = ahead || d.What == reconcile.Revision && d.Replica > d.Master
			if c.asJSON {
				failed = errors.Join(failed, printJSON(cmd, d))
				return
			}
			printDifference(cmd, d)
		},
	})
	p.end()
	if err := errors.Join(inDatabase(c.replicaURL, flagReplica, err), failed); err != nil { // the master has been asked before
		return err
	}
	if c.asJSON {
		err = printJSON(cmd, summary)
	} else {
		fmt.Fprintf(cmd.OutOrStdout(), "%s: %s compared, %d %s: %d missing, %d extra, %d of another revision, %d with other values\n",
			summary.Entity, howMany(summary.Rows, "row"), summary.Differences(), plural(summary.Differences(), "differs", "differ"), summary.Missing, summary.Extra, summary.Revision, summary.Fields)
	}
	remedies(p, summary, ahead)
	if err == nil && c.exitCode && summary.Differences() > 0 {
		err = fmt.Errorf("%s of %s %s", howMany(summary.Differences(), "row"), c.entity, plural(summary.Differences(), "differs", "differ"))
	}
	return err
}

// remedies says what to do about differences that do not go away by themselves.
func remedies(p *progress, s reconcile.Summary, ahead bool) {
	if s.Missing+s.Revision > 0 {
		p.remark("missing or of another revision, and not under way: `relay diff master | relay diff replica | relay diff sync`")
	}
	if ahead {
		p.remark(`a higher revision in the replica, as after a restore of the master: relay sync --force --cqrs-id %s --filter '{"pk__in": […]}'`, s.Entity)
	}
	if s.Fields > 0 {
		p.remark(`other values: relay sync --cqrs-id %s --filter '{"pk__in": […]}'`, s.Entity)
	}
	if s.Extra > 0 {
		p.remark("extra: `relay deleted replica | relay deleted master | relay deleted sync`")
	}
}

func printDifference(cmd *cobra.Command, d reconcile.Difference) {
	out, key := cmd.OutOrStdout(), string(d.Key)
	var columns string
	if json.Unmarshal(d.Key, &columns) == nil && strings.HasPrefix(columns, "[") {
		key = columns // of several columns: as `relay trace` takes it
	}
	switch d.What {
	case reconcile.Missing:
		fmt.Fprintf(out, "missing  %s  master has revision %d\n", key, d.Master)
	case reconcile.Extra:
		fmt.Fprintf(out, "extra    %s  replica has revision %d\n", key, d.Replica)
	default:
		fmt.Fprintf(out, "%-8s %s  master has revision %d, replica %d\n", d.What, key, d.Master, d.Replica)
	}
	for _, f := range d.Fields {
		fmt.Fprintf(out, "         %s  %s: master %s, replica %s\n", key, f.Name, f.Master, f.Replica)
	}
}

func newDiffMaster(svc *service) *cobra.Command {
	c := diffCommand{tool: tool{settings: settings{service: svc}}}
	cmd := &cobra.Command{
		Use:     "master",
		Short:   "Step 1, in the master: print keys and revisions",
		Example: `  relay diff master --cqrs-id account --config lockstep.yaml | ssh billing relay diff replica`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.check(cmd, flagDatabase); err != nil {
				return err
			}
			return c.withMaster(cmd.Context(), func(m reconcile.Master) error { return c.master(cmd, m) })
		},
	}
	c.common(cmd)
	c.entityFlag(cmd)
	c.filterFlag(cmd, "all rows")
	return cmd
}

func (c *diffCommand) master(cmd *cobra.Command, m reconcile.Master) error {
	total, err := m.Outbox.Count(cmd.Context(), m.DB, c.entity, c.orAll())
	if err != nil {
		return err
	}
	p := newProgress(cmd, c.quiet, "diff master "+c.entity, total)
	defer p.end()
	rows, err := reconcile.DiffMaster(cmd.Context(), cmd.OutOrStdout(), m, c.entity, c.orAll(), c.batch, p.report)
	if err == nil && rows == 0 {
		p.remark("no row is selected")
	}
	return err
}

// step makes a command that continues what another one printed.
func (c *diffCommand) step(cmd *cobra.Command, path *string) *cobra.Command {
	c.databaseFlag(cmd)
	c.configFlag(cmd)
	quietFlag(cmd, &c.quiet)
	cmd.Args = noArgs
	cmd.Flags().StringVarP(path, "input", "i", "-", "`file` with the step before, - for standard input")
	return cmd
}

func newDiffReplica(svc *service) *cobra.Command {
	c := diffCommand{tool: tool{settings: settings{service: svc}}}
	var path string
	cmd := c.step(&cobra.Command{
		Use:     "replica",
		Short:   "Step 2, in the replica: print the keys that differ",
		Example: `  ssh shop relay diff master --cqrs-id account | relay diff replica --config lockstep.yaml > differ`,
	}, &path)
	cmd.Flags().StringVar(&c.queue, flagQueue, "", "`name` of the queue to send the rows to (default: the file's)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.continued(cmd, path, func(in *input) error {
			return c.withReplica(cmd.Context(), func(to reconcile.Replica) error {
				if to.Queue == "" {
					return misusef("queue is missing: name this replica's queue in the file, or by --queue")
				}
				p := c.progressOf(cmd, "diff replica", in)
				result, err := reconcile.DiffReplica(cmd.Context(), in, cmd.OutOrStdout(), to, p.report, nil)
				p.end()
				c.summary(cmd, result, err, "differ")
				return err
			})
		})
	}
	return cmd
}

// continued opens the step before for fn.
func (c *diffCommand) continued(cmd *cobra.Command, path string, fn func(in *input) error) error {
	if err := c.check(cmd, flagDatabase); err != nil {
		return err
	}
	in, err := openInput(cmd, path)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	return fn(in)
}

// progressOf is the progress of a step in the middle. One that reads from a pipe is
// silent: the first step tells, and two bars would not find room on a terminal.
func (c *diffCommand) progressOf(cmd *cobra.Command, what string, in *input) *progress {
	p := newProgress(cmd, c.quiet || in.share == nil, what, 0)
	p.share = in.share
	return p
}

// summary remarks what a step found.
func (c *diffCommand) summary(cmd *cobra.Command, r reconcile.Result, err error, done string) {
	switch {
	case err != nil || c.quiet:
	case r.Entity == "":
		fmt.Fprintln(cmd.ErrOrStderr(), "the step before selected nothing")
	default:
		fmt.Fprintf(cmd.ErrOrStderr(), "%s: %d of %s %s\n", r.Entity, r.Found, howMany(r.Rows, "row"), done)
	}
}

func newDiffSync(svc *service) *cobra.Command {
	c := diffCommand{tool: tool{settings: settings{service: svc}}}
	var path string
	var force, yes bool
	cmd := c.step(&cobra.Command{
		Use:   "sync",
		Short: "Step 3, in the master: send the rows that differ to the replica's queue",
		Long: `Step 3, in the master: send the rows that differ to the replica's queue, as SYNC
events through the outbox. The broker is asked whether the queue is there, if
--broker-url is given: the relay tries what no queue takes until it gives it up.`,
		Example: `  relay diff sync --config lockstep.yaml --input differ
  relay diff sync --config lockstep.yaml --broker-url amqp://localhost/ --queue billing < differ`,
	}, &path)
	c.brokerFlag(cmd)
	c.jsonFlag(cmd)
	cmd.Flags().StringVar(&c.queue, flagQueue, "", "`name` of the queue to send to (default: the header's)")
	cmd.Flags().StringVar(&c.rate, flagRate, "", "most `rows` a second, such as 500/s (default: no limit)")
	cmd.Flags().BoolVar(&force, flagForce, false, "let replicas lower their revisions to the ones sent")
	cmd.Flags().BoolVar(&yes, flagYes, false, "send to a queue even if it is not there")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		rate, err := parseRate(c.rate)
		if err != nil {
			return err
		}
		options := []outbox.SyncOption{outbox.SyncRate(rate)}
		if force {
			options = append(options, outbox.SyncForce())
		}
		return c.continued(cmd, path, func(in *input) error {
			return c.withMaster(cmd.Context(), func(m reconcile.Master) error {
				p := newProgress(cmd, c.quiet, "diff sync", 0)
				p.share = in.share
				defer p.end()
				result, err := reconcile.DiffSync(cmd.Context(), in, m, reconcile.DiffSyncOptions{
					Queue: c.queue, Progress: p.report, Sync: options,
					CheckQueue: func(queue string) error { return c.checkQueue(cmd.Context(), p, queue, yes) },
				})
				return c.finish(cmd, result, err, "synced")
			})
		})
	}
	return cmd
}

// finish prints the result of a last step.
func (c *diffCommand) finish(cmd *cobra.Command, r reconcile.Result, err error, done string) error {
	switch {
	case err != nil:
		return err
	case c.asJSON:
		return printJSON(cmd, r)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%d of %s %s\n", r.Found, howMany(r.Rows, "row"), done)
	return nil
}
