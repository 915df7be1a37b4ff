package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// letters is `relay dead-letters` and what its commands have in common.
type letters struct {
	settings
	selection
	outbox bool
	queue  string
	yes    bool
	quiet  bool
}

// letter is a dead letter of either kind, or a message on its way to be one.
type letter struct {
	id     string
	topic  string
	entity string
	key    string
	reason string               // and the error's text
	since  time.Time            // when it died, or was put into the outbox; zero where nobody has noted it
	body   []byte               // empty of what is in the outbox
	line   string               // as it is listed
	shown  func(whole bool) any // for JSON
}

// letterStore is where dead letters lie: a table or a queue.
type letterStore interface {
	// each hands on all letters in their order.
	each(ctx context.Context, fn func(letter) error) error
	// retry sends the selected letters again and returns how many, and what hinders
	// those that stay.
	retry(ctx context.Context, selects func(letter) bool) (done int64, stay []error, err error)
	// purge deletes them for good and returns how many.
	purge(ctx context.Context, selects func(letter) bool) (int64, error)
}

func newDeadLetters(svc *service) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dead-letters",
		Short: "Look through the messages that were given up, send them again or delete them",
		Long: `Look through the messages that a replica gave up, which are in the broker's queue
dead_letter_<queue>, or those that a relay gave up (--outbox), which are in the
table outbox_dead. They are selected by id, entity, key, reason and age. What a
relay still tries is shown by ` + "`relay failures`" + `.

Letters that django-cqrs left have neither reason nor time: --reason and
--older-than do not select them. What one of these commands looks at is hidden
from other consumers of the queue until it ends, and then back in its place.`,
		Example: `  relay dead-letters list --queue billing --reason expired
  relay dead-letters retry --queue billing --cqrs-id account --key 42
  relay dead-letters list --outbox --cqrs-id account --older-than 24h
  relay dead-letters retry --outbox --reason "too large"`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return seeHelp(cmd, errors.New("what about them? use list, show, dump, retry or purge"))
		},
	}
	cmd.AddCommand(newLettersList(svc), newLettersShow(svc), newLettersDump(svc), newLettersRetry(svc), newLettersPurge(svc))
	return cmd
}

// lettersCommand declares a command on the selected letters.
func lettersCommand(svc *service, use, short, example string, do func(l *letters, cmd *cobra.Command, store letterStore) error) (*letters, *cobra.Command) {
	l := &letters{settings: settings{service: svc}}
	cmd := &cobra.Command{
		Use: use, Short: short, Example: example, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return l.withStore(cmd, func(store letterStore) error { return do(l, cmd, store) })
		},
	}
	l.sourceFlags(cmd)
	l.flags(cmd, "letters", "died")
	return l, cmd
}

func (l *letters) sourceFlags(cmd *cobra.Command) {
	l.databaseFlag(cmd)
	l.brokerFlag(cmd)
	l.configFlag(cmd)
	cmd.Flags().StringVar(&l.queue, flagQueue, "", "`name` of the replica's queue (default: the file's)")
	cmd.Flags().BoolVar(&l.outbox, "outbox", false, "the relay's own dead letters, in the database, instead of a queue's")
	quietFlag(cmd, &l.quiet)
}

// withStore opens the place of the letters for fn.
func (l *letters) withStore(cmd *cobra.Command, fn func(store letterStore) error) error {
	required := flagBroker
	var which error
	if l.outbox {
		required = flagDatabase
		if l.queue != "" {
			which = misusef("--outbox and --%s: give one of them", flagQueue)
		}
	}
	if err := errors.Join(l.fill(cmd, required), which, l.checkIDs(), l.check()); err != nil {
		return err
	}
	if l.outbox {
		return l.withOutbox(cmd, fn)
	}
	return l.withQueue(cmd, fn)
}

// progress shows how many letters are done.
func (l *letters) progress(cmd *cobra.Command) func(total int64) *progress {
	return func(total int64) *progress {
		p := newProgress(cmd, l.quiet, "dead letters", total)
		p.units = "letters"
		return p
	}
}

// selected hands on the selected letters.
func (l *letters) selected(ctx context.Context, store letterStore, fn func(letter) error) error {
	return store.each(ctx, func(d letter) error {
		if !l.selects(d) {
			return nil
		}
		return fn(d)
	})
}

func newLettersList(svc *service) *cobra.Command {
	l, cmd := lettersCommand(svc, "list", "List them: id, time, entity, key, attempts and the first line of the error", `  relay dead-letters list --queue billing --key 42
  relay dead-letters list --outbox --json`,
		func(l *letters, cmd *cobra.Command, store letterStore) error {
			none := true
			err := l.selected(cmd.Context(), store, func(d letter) error {
				none = false
				if l.asJSON {
					return printJSON(cmd, d.shown(false))
				}
				_, err := fmt.Fprintln(cmd.OutOrStdout(), d.line)
				return err
			})
			if err == nil && none && !l.quiet {
				fmt.Fprintln(cmd.ErrOrStderr(), l.none("dead letters"))
			}
			return err
		})
	l.jsonFlag(cmd)
	return cmd
}

func newLettersShow(svc *service) *cobra.Command {
	l := &letters{settings: settings{service: svc}}
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show one with its headers and its body, as JSON",
		Example: `  relay dead-letters show --queue billing 5e0b1f2c44aa
  relay dead-letters show --outbox 1234`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return seeHelp(cmd, errors.New("which one? give its id"))
			}
			l.ids = args
			return l.withStore(cmd, func(store letterStore) error {
				found := false
				err := store.each(cmd.Context(), func(d letter) error {
					if !l.selects(d) {
						return nil
					}
					found = true
					return printJSON(cmd, d.shown(true))
				})
				if err == nil && !found {
					err = fmt.Errorf("there is no dead letter %s", args[0])
				}
				return err
			})
		},
	}
	l.sourceFlags(cmd)
	return cmd
}

func newLettersDump(svc *service) *cobra.Command {
	_, cmd := lettersCommand(svc, "dump", "Print their bodies, one a line", `  relay dead-letters dump --queue billing > letters.jsonl
  relay dead-letters dump --outbox --cqrs-id account`,
		func(l *letters, cmd *cobra.Command, store letterStore) error {
			out := bufio.NewWriter(cmd.OutOrStdout())
			err := l.selected(cmd.Context(), store, func(d letter) error {
				_, err := fmt.Fprintf(out, "%s\n", d.body)
				return err
			})
			return errors.Join(err, out.Flush())
		})
	return cmd
}

func newLettersRetry(svc *service) *cobra.Command {
	l, cmd := lettersCommand(svc, "retry", "Send them again", `  relay dead-letters retry --queue billing --cqrs-id account
  relay dead-letters retry --outbox --older-than 1h`,
		func(l *letters, cmd *cobra.Command, store letterStore) error {
			done, stay, err := store.retry(cmd.Context(), l.selects)
			if err != nil {
				return fmt.Errorf("%w\n%s put back before that", err, howMany(done, "dead letter"))
			}
			if err := l.print(cmd, done, "put back"); err != nil {
				return err
			}
			if len(stay) > 0 {
				return fmt.Errorf("%s %s:\n%w", howMany(len(stay), "dead letter"), plural(len(stay), "stays where it is", "stay where they are"), firstOf(stay))
			}
			return nil
		})
	cmd.Long = `Send them again, one by one, each confirmed by the broker before the letter is
taken away: a crash in between repeats a message and loses none. Their count of
retries begins anew and so does their life: one that had an expiry gets its
entity's TTL where the configuration file has it, else the life it had at first.
A queue's letters go to that queue alone; the relay's go back into the outbox,
behind what is there. A replica that has a newer state of a row ignores them.`
	l.jsonFlag(cmd)
	return cmd
}

// firstOf is the first few of many errors.
func firstOf(all []error) error {
	const most = 10
	if len(all) <= most {
		return errors.Join(all...)
	}
	return fmt.Errorf("%w\nand %d more", errors.Join(all[:most]...), len(all)-most)
}

func newLettersPurge(svc *service) *cobra.Command {
	l, cmd := lettersCommand(svc, "purge", "Delete them for good", `  relay dead-letters purge --queue billing --reason expired
  relay dead-letters purge --outbox --older-than 720h --yes`,
		func(l *letters, cmd *cobra.Command, store letterStore) error {
			if err := confirm(cmd, l.yes, "Delete the selected dead letters for good?", "nothing was deleted"); err != nil {
				return err
			}
			done, err := store.purge(cmd.Context(), l.selects)
			if err != nil {
				return fmt.Errorf("%w\n%s purged before that", err, howMany(done, "dead letter"))
			}
			return l.print(cmd, done, "purged")
		})
	l.jsonFlag(cmd)
	cmd.Flags().BoolVar(&l.yes, flagYes, false, "do not ask")
	return cmd
}

// confirm asks on a terminal; elsewhere the flag has to be given.
func confirm(cmd *cobra.Command, yes bool, question, declined string) error {
	if yes {
		return nil
	}
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return misusef("--yes is missing: there is no terminal to ask on")
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s [y/N] ", question)
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil || !strings.EqualFold(strings.TrimSpace(answer), "y") {
		return errors.New(declined)
	}
	return nil
}

// print prints how many letters something was done to.
func (l *letters) print(cmd *cobra.Command, done int64, verb string) error {
	if l.asJSON {
		return printJSON(cmd, struct {
			Letters int64 `json:"letters"`
		}{done})
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", howMany(done, "dead letter"), verb)
	return err
}
