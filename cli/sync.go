package cli

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lockstep-go/lockstep/outbox"
	"github.com/lockstep-go/lockstep/reconcile"
)

// syncCommand is `relay sync`.
type syncCommand struct {
	tool
	force  bool
	yes    bool
	resume bool
	from   string
	rate   string
}

func newSync(svc *service) *cobra.Command {
	c := syncCommand{tool: tool{settings: settings{service: svc}}}
	cmd := &cobra.Command{
		Use:   "sync",
		Short: "Send the current state of rows again, to all replicas or one",
		Long: `Send the current state of rows again, as SYNC events through the outbox: to all
replicas, or to the one behind --queue. Rows go in key order, in short
transactions, safe beside live writes. A relay forwards them.

With --queue the broker is asked whether the queue is there, if --broker-url is
given: the relay tries what no queue takes until it gives it up.

Without --filter nothing is selected; --all selects every row. A run notes how far
it came, and if it is broken off, even killed, the same command with --resume goes
on there: no row is left out, and at most the rows that were in hand (--batch) are
sent twice, which is harmless. The note is in this account's cache folder.`,
		Example: `  relay sync --cqrs-id account --filter '{"id__in": [1, 2]}' --queue billing --config lockstep.yaml
  relay sync --cqrs-id account --all --rate 500/s --resume`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd) },
	}
	c.common(cmd)
	c.brokerFlag(cmd)
	c.entityFlag(cmd)
	c.filterFlag(cmd, "none")
	c.jsonFlag(cmd)
	f := cmd.Flags()
	f.BoolVar(&c.all, flagAll, false, "select every row")
	f.StringVar(&c.queue, flagQueue, "", "`name` of the one queue to send to (default: all)")
	f.BoolVar(&c.yes, flagYes, false, "send to a queue even if it is not there")
	f.BoolVar(&c.force, flagForce, false, "let replicas lower their revisions to the ones sent")
	f.StringVar(&c.rate, flagRate, "", "most `rows` a second, such as 500/s (default: no limit)")
	f.BoolVar(&c.resume, "resume", false, "go on where the same command was broken off")
	f.StringVar(&c.from, "from", "", "go on behind this `key`")
	return cmd
}

func (c *syncCommand) run(cmd *cobra.Command) error {
	rate, err := parseRate(c.rate)
	faults := []error{c.check(cmd, flagDatabase), err}
	if c.all && c.filter != "" {
		faults = append(faults, misusef("--%s and --%s: give one of them", flagAll, flagFilter))
	}
	if c.resume && c.from != "" {
		faults = append(faults, misusef("--resume and --from: give one of them"))
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	filter := outbox.Filter(c.filter)
	if c.all {
		filter = outbox.All
	}
	options := []outbox.SyncOption{outbox.SyncRate(rate), outbox.SyncChunk(min(c.batch, 500))}
	if c.force {
		options = append(options, outbox.SyncForce())
	}
	return c.withMaster(cmd.Context(), func(m reconcile.Master) error { return c.sync(cmd, m, filter, options) })
}

func (c *syncCommand) sync(cmd *cobra.Command, m reconcile.Master, filter outbox.Filter, options []outbox.SyncOption) error {
	ctx := cmd.Context()
	total, err := m.Outbox.Count(ctx, m.DB, c.entity, filter)
	if err != nil {
		return err
	}
	p := newProgress(cmd, c.quiet, "sync "+c.entity, total)
	defer p.end()
	if err := c.checkQueue(ctx, p, c.queue, c.yes); err != nil {
		return err
	}
	switch {
	case filter == "":
		p.remark("nothing is selected: give --filter, or --all for every row")
	case total == 0 && c.all:
		p.remark("%s has no rows: a deleted row is not there to be synced", c.entity)
	case total == 0:
		p.remark("no row of %s matches %s: a deleted row is not there to be synced; `relay deleted` finds those that replicas still have",
			c.entity, c.filter)
	}
	note := newNote(c)
	if c.resume {
		if c.from, err = note.read(); err != nil {
			return err
		}
		if c.from == "" {
			p.remark("this command was not broken off, or had other flags: beginning with the first row")
		} else {
			p.remark("resuming behind key %q", c.from)
		}
	}
	options = append(options, outbox.SyncFrom(c.from), outbox.SyncReport(func(done outbox.SyncProgress) {
		p.report(done.Rows)
		note.write(done.Position)
	}))
	done, err := m.Outbox.Sync(ctx, m.DB, c.entity, filter, c.queue, options...)
	p.end()
	if err != nil {
		if done.Rows > 0 {
			return fmt.Errorf("%w\n%s %s sent, up to key %q: go on with --resume", err, howMany(done.Rows, "row"), plural(done.Rows, "was", "were"), done.Position)
		}
		return err
	}
	note.remove()
	if c.asJSON {
		return printJSON(cmd, struct {
			Entity   string `json:"cqrs_id"`
			Rows     int64  `json:"rows"`
			Position string `json:"position"`
		}{c.entity, done.Rows, done.Position})
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s synced\n", howMany(done.Rows, "row"))
	return nil
}

// parseRate reads 500, 500/s, 30/m or 1000/h as rows a second.
func parseRate(text string) (float64, error) {
	if text == "" {
		return 0, nil
	}
	number, unit, _ := strings.Cut(text, "/")
	seconds, known := map[string]float64{"": 1, "s": 1, "m": 60, "h": 3600}[unit]
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !known || n <= 0 || n > 1e9 {
		return 0, misusef("--%s is %q: use rows a second, such as 500/s, or 30/m", flagRate, text)
	}
	return n / seconds, nil
}

// note is the file that says how far a sync has come, for --resume.
type note struct {
	path string
}

// newNote names the note by all that makes two syncs the same.
func newNote(c *syncCommand) note {
	what, _ := json.Marshal([]any{c.databaseURL, c.entity, c.filter, c.all, c.queue, c.force})
	sum := sha256.Sum256(what)
	folder, err := os.UserCacheDir()
	if err != nil {
		folder = os.TempDir()
	}
	return note{filepath.Join(folder, "lockstep", "sync-"+hex.EncodeToString(sum[:12]))}
}

func (n note) read() (position string, err error) {
	b, err := os.ReadFile(n.path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // nothing was broken off
	}
	if err != nil {
		return "", fmt.Errorf("--resume: %w", err)
	}
	return string(b), nil
}

// write replaces the note. A note that cannot be written costs nothing but the
// resumption, whose position an error names, too.
func (n note) write(position string) {
	if err := os.MkdirAll(filepath.Dir(n.path), 0o700); err != nil {
		return
	}
	next := n.path + ".next"
	if err := os.WriteFile(next, []byte(position), 0o600); err == nil {
		_ = os.Rename(next, n.path)
	}
}

func (n note) remove() { _ = os.Remove(n.path) }
