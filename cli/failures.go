package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/relay"
)

// failures is `relay failures` and what its commands have in common.
type failures struct {
	settings
	selection
	queue string
	yes   bool
	quiet bool
}

func newFailures(svc *service) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "failures",
		Short: "Look through the messages that the broker refuses: try them now, give them up or delete them",
		Long: `Look through the messages of the outbox that the broker refused and that the relay
tries again, more and more seldom, up to once a minute. Until one of them is through,
or is given up after --max-attempts, the later messages of its key wait. They are in
the table outbox, and the last error of each in outbox_failures.

What a relay has given up is shown by ` + "`relay dead-letters --outbox`" + `.`,
		Example: `  relay failures list
  relay failures retry --cqrs-id account --key 42
  relay failures give-up --older-than 24h --reason "no queue"
  relay failures purge --queue nosuch --yes`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return seeHelp(cmd, errors.New("what about them? use list, show, retry, give-up or purge"))
		},
	}
	cmd.AddCommand(newFailuresList(svc), newFailuresShow(svc), newFailuresRetry(svc), newFailuresGiveUp(svc), newFailuresPurge(svc))
	return cmd
}

// failuresCommand declares a command on the selected messages.
func failuresCommand(svc *service, cmd *cobra.Command, do func(f *failures, cmd *cobra.Command, a *relay.Admin) error) (*failures, *cobra.Command) {
	f := &failures{settings: settings{service: svc}}
	cmd.Args = noArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := errors.Join(f.fill(cmd, flagDatabase), f.checkNumbers("failures list"), f.check()); err != nil {
			return err
		}
		return f.withAdmin(cmd, func(a *relay.Admin) error { return do(f, cmd, a) })
	}
	f.databaseFlag(cmd)
	f.jsonFlag(cmd)
	quietFlag(cmd, &f.quiet)
	f.flags(cmd, "messages", "were put into the outbox")
	cmd.Flags().StringVar(&f.queue, flagQueue, "", "only messages to this one queue, by its `name`: SYNCs that were sent to it alone")
	return f, cmd
}

func (f *failures) selects(d letter) bool {
	return f.selection.selects(d) && (f.queue == "" || d.topic == event.DirectTopic(f.queue, d.entity))
}

// table is the failing messages.
func (f *failures) table(cmd *cobra.Command, a *relay.Admin) outboxTable {
	return outboxTable{
		page: func(ctx context.Context, after int64) ([]letter, error) {
			return lettersOf(failing)(a.Failures(ctx, after, lettersPage))
		},
		progress: func(total int64) *progress {
			p := newProgress(cmd, f.quiet, "failing", total)
			p.units = "messages"
			return p
		},
	}
}

// failing reads a failing message as a letter without its body.
func failing(m relay.Failure) letter {
	entity := event.EntityOf(m.Topic)
	return letter{
		id: strconv.FormatInt(m.ID, 10), topic: m.Topic, entity: entity, key: m.Key, reason: m.Error, since: m.Created,
		line: fmt.Sprintf("%-8d %s  %s/%s  %s, again at %s  %s", m.ID, m.Created.UTC().Format(time.DateTime),
			entity, m.Key, howMany(m.Attempts, "attempt"), m.RetryAt.UTC().Format(time.DateTime), strings.ReplaceAll(m.Error, "\n", " ")),
		shown: func(bool) any { return shownFailure(m) },
	}
}

func shownFailure(m relay.Failure) outboxMessageJSON {
	at := m.RetryAt.UTC()
	return outboxMessageJSON{
		ID: m.ID, Topic: m.Topic, Entity: event.EntityOf(m.Topic), Key: m.Key, Attempts: m.Attempts, Error: m.Error,
		Created: m.Created.UTC(), RetryAt: &at, Metadata: m.Metadata,
	}
}

func newFailuresList(svc *service) *cobra.Command {
	_, cmd := failuresCommand(svc, &cobra.Command{
		Use:   "list",
		Short: "List them: id, time, entity, key, attempts, next attempt and last error",
		Example: `  relay failures list --cqrs-id account
  relay failures list --older-than 1h --json`,
	}, func(f *failures, cmd *cobra.Command, a *relay.Admin) error {
		return f.table(cmd, a).each(cmd.Context(), func(d letter) error {
			switch {
			case !f.selects(d):
				return nil
			case f.asJSON:
				return printJSON(cmd, d.shown(false))
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), d.line)
			return err
		})
	})
	return cmd
}

func newFailuresShow(svc *service) *cobra.Command {
	f := &failures{settings: settings{service: svc}}
	cmd := &cobra.Command{
		Use:     "show ID",
		Short:   "Show one with its headers and its body, as JSON",
		Example: `  relay failures show 1234`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return seeHelp(cmd, errors.New("which one? give its id"))
			}
			f.ids = args
			if err := errors.Join(f.fill(cmd, flagDatabase), f.checkNumbers("failures list")); err != nil {
				return err
			}
			id, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil {
				return err
			}
			return f.withAdmin(cmd, func(a *relay.Admin) error { return f.show(cmd, a, id) })
		},
	}
	f.databaseFlag(cmd)
	return cmd
}

func (f *failures) show(cmd *cobra.Command, a *relay.Admin, id int64) error {
	ctx := cmd.Context()
	found, err := a.Failures(ctx, id-1, 1)
	if err != nil {
		return err
	}
	if len(found) == 0 || found[0].ID != id {
		return fmt.Errorf("no message %d is failing: it may have been sent, or be in `dead-letters list --outbox`", id)
	}
	body, err := a.Payload(ctx, id)
	if err != nil {
		return err
	}
	shown := shownFailure(found[0])
	shown.Payload = string(body)
	return printJSON(cmd, shown)
}

func newFailuresRetry(svc *service) *cobra.Command {
	_, cmd := failuresCommand(svc, &cobra.Command{
		Use:   "retry",
		Short: "Try them again now",
		Long: `Try them again now instead of at their time, and count their attempts anew. The
relay does it within a few seconds; if none runs, the next one does at its start.`,
		Example: `  relay failures retry
  relay failures retry --cqrs-id account --key 42`,
	}, changing((*relay.Admin).RetryFailures, "due now"))
	return cmd
}

// changing is what a command does that changes the selected messages.
func changing(
	change func(a *relay.Admin, ctx context.Context, ids ...int64) (int64, error), verb string,
) func(f *failures, cmd *cobra.Command, a *relay.Admin) error {
	return func(f *failures, cmd *cobra.Command, a *relay.Admin) error {
		done, err := f.table(cmd, a).changeSelected(cmd.Context(), f.selects, func(ctx context.Context, ids ...int64) (int64, error) {
			return change(a, ctx, ids...)
		})
		return f.done(cmd, done, err, verb)
	}
}

func newFailuresGiveUp(svc *service) *cobra.Command {
	_, cmd := failuresCommand(svc, &cobra.Command{
		Use:   "give-up",
		Short: "Move them to the dead letters now, so that their keys go on",
		Long: `Move them to the dead letters, in the table outbox_dead, as the relay does by itself
after --max-attempts. Their keys go on within seconds. Nothing is lost:
` + "`relay dead-letters retry --outbox`" + ` puts them back, behind what is there then.`,
		Example: `  relay failures give-up --id 1234
  relay failures give-up --reason "no queue" --json`,
	}, changing((*relay.Admin).GiveUpFailures, "moved to the dead letters"))
	return cmd
}

func newFailuresPurge(svc *service) *cobra.Command {
	f, cmd := failuresCommand(svc, &cobra.Command{
		Use:   "purge",
		Short: "Delete them from the outbox for good: replicas never get these events",
		Long: `Delete them from the outbox for good, so that their keys go on within seconds. The
events are lost: the rows in the master stay as they are, but replicas do not hear of
these changes before the keys' next events. To send the rows as they are then, use
` + "`relay sync`" + `; a row whose DELETE was purged stays in the replicas until
` + "`relay deleted`" + ` finds it. To keep the events, use give-up instead.

It is the right thing for SYNCs to a queue that does not exist (--queue).`,
		Example: `  relay failures purge --queue nosuch
  relay failures purge --id 1234,1240 --yes`,
	}, (*failures).purge)
	cmd.Flags().BoolVar(&f.yes, flagYes, false, "do not ask")
	return cmd
}

func (f *failures) purge(cmd *cobra.Command, a *relay.Admin) error {
	table := f.table(cmd, a)
	ids, err := table.ids(cmd.Context(), f.selects)
	if err != nil {
		return err
	}
	question := fmt.Sprintf("Delete %s for good, so that replicas never get %s?", howMany(len(ids), "event"), plural(len(ids), "it", "them"))
	if err := confirm(cmd, f.yes, question, "nothing was deleted"); err != nil {
		return err
	}
	done, err := table.change(cmd.Context(), ids, a.PurgeFailures)
	return f.done(cmd, done, err, "purged")
}

// done prints how many messages something was done to.
func (f *failures) done(cmd *cobra.Command, done int64, err error, verb string) error {
	switch {
	case err != nil:
		return fmt.Errorf("%w\n%s %s before that", err, howMany(done, "failing message"), verb)
	case f.asJSON:
		return printJSON(cmd, struct {
			Messages int64 `json:"messages"`
		}{done})
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", howMany(done, "failing message"), verb)
	return err
}
