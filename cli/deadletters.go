package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/relay"
)

// letters is `relay dead-letters` and what its commands have in common.
type letters struct {
	settings
	outbox   bool
	entity   string
	key      string
	reason   string
	olderFor time.Duration
	yes      bool
}

func newDeadLetters() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dead-letters",
		Short: "Look through the messages that a relay gave up, send them again or delete them",
		Long: `Look through the messages that a relay gave up (--outbox), which are in the table
outbox_dead: those the broker will never take, or refused too often. They are
selected by entity, key, reason and age.`,
		Example: `  relay dead-letters list --outbox --cqrs-id account --older-than 24h
  relay dead-letters retry --outbox --reason "too large"`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return seeHelp(cmd, errors.New("what about them? use list, show, dump, retry or purge"))
		},
	}
	cmd.AddCommand(newLettersList(), newLettersShow(), newLettersDump(), newLettersRetry(), newLettersPurge())
	return cmd
}

// lettersCommand declares a command on the selected letters.
func lettersCommand(use, short, example string, do func(l *letters, cmd *cobra.Command, a *relay.Admin) error) (*letters, *cobra.Command) {
	l := &letters{}
	cmd := &cobra.Command{
		Use: use, Short: short, Example: example, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return l.withAdmin(cmd, func(a *relay.Admin) error { return do(l, cmd, a) })
		},
	}
	l.sourceFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&l.entity, flagEntity, "", "only letters of this `entity`")
	f.StringVar(&l.key, "key", "", "only letters of this `key`")
	f.StringVar(&l.reason, "reason", "", "only letters whose error holds this `text`")
	f.DurationVar(&l.olderFor, "older-than", 0, "only letters that died at least this `time` ago")
	return l, cmd
}

func (l *letters) sourceFlags(cmd *cobra.Command) {
	l.databaseFlag(cmd)
	cmd.Flags().BoolVar(&l.outbox, "outbox", false, "the relay's own dead letters")
}

func (l *letters) withAdmin(cmd *cobra.Command, fn func(a *relay.Admin) error) error {
	var which error
	if !l.outbox {
		which = misusef("--outbox is missing: these are the relay's own dead letters")
	}
	if err := errors.Join(l.fill(cmd, flagDatabase), which, atLeast("older-than", l.olderFor, 0)); err != nil {
		return err
	}
	db, err := openDatabase(cmd.Context(), l.databaseURL)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	a, err := relay.NewAdmin(db.DB, db.dialect)
	if err != nil {
		return err
	}
	return fn(a)
}

// lettersPage is how many letters are read or changed at once.
const lettersPage = 200

// each hands on the selected letters in the order of their ids, page by page.
func (l *letters) each(ctx context.Context, a *relay.Admin, fn func(page []relay.DeadLetter) error) error {
	for after := int64(0); ; {
		page, err := a.DeadLetters(ctx, after, lettersPage)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			return nil
		}
		after = page[len(page)-1].ID
		selected := page[:0:0]
		for _, d := range page {
			if l.selects(d) {
				selected = append(selected, d)
			}
		}
		if len(selected) > 0 {
			if err := fn(selected); err != nil {
				return err
			}
		}
	}
}

func (l *letters) selects(d relay.DeadLetter) bool {
	return (l.entity == "" || event.EntityOf(d.Topic) == l.entity) &&
		(l.key == "" || d.Key == l.key) &&
		strings.Contains(d.Error, l.reason) &&
		(l.olderFor == 0 || time.Since(d.Died) >= l.olderFor)
}

// shownLetter is a letter as it is printed in JSON.
type shownLetter struct {
	ID       int64           `json:"id"`
	Topic    string          `json:"topic"`
	Entity   string          `json:"cqrs_id"`
	Key      string          `json:"key"`
	Attempts int             `json:"attempts"`
	Error    string          `json:"error"`
	Created  time.Time       `json:"created"`
	Died     time.Time       `json:"died"`
	Metadata json.RawMessage `json:"metadata"`
	Payload  string          `json:"payload,omitempty"`
}

func shownAs(d relay.DeadLetter) shownLetter {
	return shownLetter{d.ID, d.Topic, event.EntityOf(d.Topic), d.Key, d.Attempts, d.Error, d.Created.UTC(), d.Died.UTC(), d.Metadata, ""}
}

func newLettersList() *cobra.Command {
	l, cmd := lettersCommand("list", "List them: id, time, entity, key, attempts and error", "  relay dead-letters list --outbox --key 42",
		func(l *letters, cmd *cobra.Command, a *relay.Admin) error {
			return l.each(cmd.Context(), a, func(page []relay.DeadLetter) error {
				for _, d := range page {
					if l.asJSON {
						if err := printJSON(cmd, shownAs(d)); err != nil {
							return err
						}
						continue
					}
					fmt.Fprintf(cmd.OutOrStdout(), "%-8d %s  %s/%s  %d attempts  %s\n", d.ID, d.Died.UTC().Format(time.DateTime),
						event.EntityOf(d.Topic), d.Key, d.Attempts, strings.ReplaceAll(d.Error, "\n", " "))
				}
				return nil
			})
		})
	l.jsonFlag(cmd)
	return cmd
}

func newLettersShow() *cobra.Command {
	l := &letters{}
	cmd := &cobra.Command{
		Use:     "show ID",
		Short:   "Show one with its headers and its body, as JSON",
		Example: `  relay dead-letters show --outbox 1234`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return seeHelp(cmd, errors.New("which one? give its id"))
			}
			id, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil {
				return misusef("%q is not an id: use a number that `dead-letters list` prints", hideURLs(args[0]))
			}
			return l.withAdmin(cmd, func(a *relay.Admin) error {
				found, err := a.DeadLetters(cmd.Context(), id-1, 1)
				if err != nil {
					return err
				}
				if len(found) == 0 || found[0].ID != id {
					return fmt.Errorf("there is no dead letter %d", id)
				}
				shown := shownAs(found[0])
				shown.Payload = string(found[0].Payload)
				return printJSON(cmd, shown)
			})
		},
	}
	l.sourceFlags(cmd)
	return cmd
}

func newLettersDump() *cobra.Command {
	_, cmd := lettersCommand("dump", "Print their bodies, one a line", "  relay dead-letters dump --outbox > letters.jsonl",
		func(l *letters, cmd *cobra.Command, a *relay.Admin) error {
			return l.each(cmd.Context(), a, func(page []relay.DeadLetter) error {
				for _, d := range page {
					if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s\n", d.Payload); err != nil {
						return err
					}
				}
				return nil
			})
		})
	return cmd
}

func newLettersRetry() *cobra.Command {
	l, cmd := lettersCommand("retry", "Put them back into the outbox, behind what is there", "  relay dead-letters retry --outbox --cqrs-id account",
		func(l *letters, cmd *cobra.Command, a *relay.Admin) error {
			return l.change(cmd, a, a.RetryDead, "put back")
		})
	l.jsonFlag(cmd)
	return cmd
}

func newLettersPurge() *cobra.Command {
	l, cmd := lettersCommand("purge", "Delete them for good", "  relay dead-letters purge --outbox --older-than 720h --yes",
		func(l *letters, cmd *cobra.Command, a *relay.Admin) error {
			if err := l.confirm(cmd); err != nil {
				return err
			}
			return l.change(cmd, a, a.PurgeDead, "purged")
		})
	l.jsonFlag(cmd)
	cmd.Flags().BoolVar(&l.yes, "yes", false, "do not ask")
	return cmd
}

// confirm asks on a terminal; elsewhere the flag has to be given.
func (l *letters) confirm(cmd *cobra.Command) error {
	if l.yes {
		return nil
	}
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return misusef("--yes is missing: there is no terminal to ask on")
	}
	fmt.Fprint(cmd.ErrOrStderr(), "Delete the selected dead letters for good? [y/N] ")
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil || !strings.EqualFold(strings.TrimSpace(answer), "y") {
		return errors.New("nothing was deleted")
	}
	return nil
}

// change does something to the letters that are there now: the ids are collected
// first, so that a letter which dies again meanwhile is not met twice.
func (l *letters) change(cmd *cobra.Command, a *relay.Admin, do func(ctx context.Context, ids ...int64) (int64, error), verb string) error {
	ctx := cmd.Context()
	var ids []int64
	err := l.each(ctx, a, func(page []relay.DeadLetter) error {
		for _, d := range page {
			ids = append(ids, d.ID)
		}
		return nil
	})
	if err != nil {
		return err
	}
	var changed int64
	for start := 0; start < len(ids); start += lettersPage {
		n, err := do(ctx, ids[start:min(start+lettersPage, len(ids))]...)
		changed += n
		if err != nil {
			return fmt.Errorf("%w\n%d of %d were %s before", err, changed, len(ids), verb)
		}
	}
	if l.asJSON {
		return printJSON(cmd, struct {
			Letters int64 `json:"letters"`
		}{changed})
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%d dead letters %s\n", changed, verb)
	return nil
}
