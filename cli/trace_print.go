package cli

import (
	"fmt"
	"io"
	"strings"
	"time"
)

func (t *traced) print(out io.Writer) {
	fmt.Fprintf(out, "%s/%s\n", t.Entity, t.Key)
	t.Master.show(out, "master")
	for _, e := range t.Events {
		fmt.Fprintf(out, "%-11s  id %s  %s revision %d", e.Where, e.ID, e.Signal, e.Revision)
		if e.Created != nil {
			fmt.Fprintf(out, ", created %s", e.Created.Format(time.DateTime))
		}
		if e.Died != nil {
			fmt.Fprintf(out, ", died %s", e.Died.UTC().Format(time.DateTime))
		}
		switch {
		case e.Attempts == 0:
		case e.Where == inQueue: // which counts without the first
			fmt.Fprintf(out, ", %d %s", e.Attempts, plural(e.Attempts, "retry", "retries"))
		default:
			fmt.Fprintf(out, ", %s", howMany(e.Attempts, "attempt"))
		}
		if e.RetryAt != nil {
			fmt.Fprintf(out, ", again at %s", e.RetryAt.Format(time.DateTime))
		}
		if e.Error != "" {
			fmt.Fprintf(out, ": %s", strings.ReplaceAll(e.Error, "\n", " "))
		}
		fmt.Fprintln(out)
	}
	t.Replica.show(out, "replica")
	if m, r := t.Master, t.Replica; m.found() && r.found() && m.Revision == r.Revision {
		fmt.Fprintln(out, "both at the same revision")
	}
}

func (r *tracedRow) show(out io.Writer, side string) {
	switch {
	case r == nil:
	case r.Is == isUnknown:
		fmt.Fprintf(out, "%-11s  none was deleted; the table is not known here: declare the entity (entities in lockstep.yaml) to see its row\n", side)
	case r.Is == isNone:
		fmt.Fprintf(out, "%-11s  no row, and none that was deleted\n", side)
	case r.Is == "deleted":
		fmt.Fprintf(out, "%-11s  deleted at revision %d, %s\n", side, r.Revision, r.Deleted)
	default:
		fmt.Fprintf(out, "%-11s  revision %d, changed %s\n", side, r.Revision, r.Updated)
	}
}

// found reports whether there is a revision.
func (r *tracedRow) found() bool { return r != nil && r.Is != isNone && r.Is != isUnknown }
