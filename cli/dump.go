package cli

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lockstep-go/lockstep/reconcile"
)

// dumpCommand is `relay dump`.
type dumpCommand struct {
	tool
	output string
	force  bool
}

func newDump(svc *service) *cobra.Command {
	c := dumpCommand{tool: tool{settings: settings{service: svc}}}
	cmd := &cobra.Command{
		Use:   "dump",
		Short: "Write an entity's rows to a file that load and django-cqrs read",
		Long: `Write an entity's rows to a file that ` + "`relay load`" + ` and django-cqrs's
cqrs_bulk_load read: the CQRS ID, then a row on each line. A name that ends in .gz
is compressed. An existing file is not overwritten without --force, and a file
appears under its name only when it is complete.`,
		Example: `  relay dump --cqrs-id account --output account.dump.gz --config lockstep.yaml
  relay dump --cqrs-id account --output - | ssh billing relay load --input -`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd) },
	}
	c.common(cmd)
	c.entityFlag(cmd)
	c.filterFlag(cmd, "all rows")
	c.jsonFlag(cmd)
	cmd.Flags().StringVarP(&c.output, "output", "o", "", "`file` to write, - for standard output (default: <cqrs-id>.dump)")
	cmd.Flags().BoolVar(&c.force, flagForce, false, "overwrite an existing file")
	return cmd
}

func (c *dumpCommand) run(cmd *cobra.Command) error {
	if err := c.check(cmd, flagDatabase); err != nil {
		return err
	}
	if c.output == "" {
		c.output = c.entity + ".dump"
	}
	if c.output == "-" && c.asJSON {
		return misusef("--json: standard output holds the dump: name a file by --output")
	}
	return c.withMaster(cmd.Context(), func(m reconcile.Master) error { return c.dump(cmd, m) })
}

func (c *dumpCommand) dump(cmd *cobra.Command, m reconcile.Master) error {
	total, err := m.Outbox.Count(cmd.Context(), m.DB, c.entity, c.orAll())
	if err != nil {
		return err
	}
	p := newProgress(cmd, c.quiet, "dump "+c.entity, total)
	defer p.end()
	var rows int64
	write := func(w io.Writer) (err error) {
		rows, err = reconcile.Dump(cmd.Context(), w, m, c.entity, c.orAll(), p.report)
		return err
	}
	if c.output == "-" {
		if err := write(cmd.OutOrStdout()); err != nil {
			return err
		}
		p.remark("%s dumped", howMany(rows, "row"))
		return nil
	}
	if err := writeWhole(c.output, c.force, write); err != nil {
		return err
	}
	p.end()
	if c.asJSON {
		return printJSON(cmd, struct {
			Entity string `json:"cqrs_id"`
			Rows   int64  `json:"rows"`
			File   string `json:"file"`
		}{c.entity, rows, c.output})
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s dumped to %s\n", howMany(rows, "row"), c.output)
	return nil
}

// writeWhole writes a file that appears under its name when it is complete,
// compressed where the name says so.
func writeWhole(path string, overwrite bool, write func(io.Writer) error) (err error) {
	if _, err := os.Lstat(path); err == nil && !overwrite {
		return existsError(path)
	}
	f, err := os.OpenFile(path+".part", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600) //nolint:gosec // the user names the file
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if strings.HasSuffix(path, ".gz") {
		z := gzip.NewWriter(f)
		err = errors.Join(write(z), z.Close())
	} else {
		err = write(f)
	}
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if overwrite {
		return os.Rename(f.Name(), path)
	}
	if err := os.Link(f.Name(), path); err != nil { // fails when someone was faster
		if errors.Is(err, fs.ErrExist) {
			return existsError(path)
		}
		return os.Rename(f.Name(), path) // a file system without links
	}
	return os.Remove(f.Name())
}

func existsError(path string) error {
	return fmt.Errorf("%s exists: name another file, or overwrite it with --force", path)
}
