package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lockstep-go/lockstep/reconcile"
)

func newDeleted(svc *service) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "deleted",
		Short: "Find rows that a replica has and the master has deleted, and delete them",
		Long: `Find rows that a replica has and the master has deleted, and delete them, in three
steps that are joined by pipes. Either end may be django-cqrs's command of the
same purpose.`,
		Example: `  relay deleted replica --cqrs-id account | ssh shop relay deleted master | relay deleted sync
  relay deleted replica --cqrs-id account | ./manage.py cqrs_deleted_diff_master | relay deleted sync`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return seeHelp(cmd, errors.New("which step? use replica, master or sync"))
		},
	}
	cmd.AddCommand(newDeletedReplica(svc), newDeletedMaster(svc), newDeletedSync(svc))
	return cmd
}

func newDeletedReplica(svc *service) *cobra.Command {
	c := diffCommand{tool: tool{settings: settings{service: svc}}}
	cmd := &cobra.Command{
		Use:     "replica",
		Short:   "Step 1, in the replica: print the keys of all rows",
		Example: `  relay deleted replica --cqrs-id account --config lockstep.yaml | ssh shop relay deleted master`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.check(cmd, flagDatabase); err != nil {
				return err
			}
			return c.withReplica(cmd.Context(), func(from reconcile.Replica) error {
				total, err := countRows(cmd.Context(), from, c.entity)
				if err != nil {
					return err
				}
				p := newProgress(cmd, c.quiet, "deleted replica "+c.entity, total)
				defer p.end()
				rows, err := reconcile.DeletedReplica(cmd.Context(), cmd.OutOrStdout(), from, c.entity, c.batch, p.report)
				if err == nil && rows == 0 {
					p.remark("the table has no rows")
				}
				return err
			})
		},
	}
	c.common(cmd)
	c.entityFlag(cmd)
	return cmd
}

// countRows counts the rows of a replica's table.
func countRows(ctx context.Context, from reconcile.Replica, entity string) (int64, error) {
	reader, err := from.Consumer.Reader(ctx, entity)
	if err != nil {
		return 0, err
	}
	return reader.Count(ctx)
}

func newDeletedMaster(svc *service) *cobra.Command {
	c := diffCommand{tool: tool{settings: settings{service: svc}}}
	var path string
	cmd := c.step(&cobra.Command{
		Use:     "master",
		Short:   "Step 2, in the master: print the keys that it lacks",
		Example: `  ssh billing relay deleted replica --cqrs-id account | relay deleted master --config lockstep.yaml > deleted`,
	}, &path)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.continued(cmd, path, func(in *input) error {
			return c.withMaster(cmd.Context(), func(m reconcile.Master) error {
				p := c.progressOf(cmd, "deleted master", in)
				result, err := reconcile.DeletedMaster(cmd.Context(), in, cmd.OutOrStdout(), m, p.report, nil)
				p.end()
				c.summary(cmd, result, err, "are deleted in the master")
				return err
			})
		})
	}
	return cmd
}

func newDeletedSync(svc *service) *cobra.Command {
	c := diffCommand{tool: tool{settings: settings{service: svc}}}
	var path string
	cmd := c.step(&cobra.Command{
		Use:   "sync",
		Short: "Step 3, in the replica: delete those rows",
		Long: `Step 3, in the replica: delete the rows that the master lacks. A row that was
changed after the comparison began stays. The deleted ones leave tombstones.`,
		Example: `  relay deleted sync --config lockstep.yaml --input deleted`,
	}, &path)
	c.jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.continued(cmd, path, func(in *input) error {
			return c.withReplica(cmd.Context(), func(to reconcile.Replica) error {
				p := newProgress(cmd, c.quiet, "deleted sync", 0)
				p.share = in.share
				defer p.end()
				failed := 0
				result, err := reconcile.DeletedSync(cmd.Context(), in, to, p.report, func(_ json.RawMessage, err error) {
					failed++
					p.end()
					fmt.Fprintln(cmd.ErrOrStderr(), err)
				})
				if err := c.finish(cmd, result, err, "deleted"); err != nil {
					return err
				}
				if failed > 0 {
					return fmt.Errorf("%s of %s cannot be deleted", howMany(failed, "row"), result.Entity)
				}
				return nil
			})
		})
	}
	return cmd
}
