package cli

import (
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

const flagOlder = "older-than"

// selection is which of the messages a command is about.
type selection struct {
	ids      []string
	entity   string
	key      string
	reason   string
	olderFor time.Duration
}

// flags declares what selects. Things are what the messages are called, aged what
// happened to them when their age begins.
func (s *selection) flags(cmd *cobra.Command, things, aged string) {
	f := cmd.Flags()
	f.StringSliceVar(&s.ids, "id", nil, "only the "+things+" with these `ids`, as list prints them; with commas, or once for each")
	f.StringVar(&s.entity, flagEntity, "", "only "+things+" of this `entity`")
	f.StringVar(&s.key, "key", "", "only "+things+" of this `key`")
	f.StringVar(&s.reason, "reason", "", "only "+things+" whose reason or error holds this `text`")
	f.DurationVar(&s.olderFor, flagOlder, 0, "only "+things+" that "+aged+" at least this `time` ago")
}

func (s *selection) check() error { return atLeast(flagOlder, s.olderFor, 0) }

func (s *selection) selects(d letter) bool {
	return (len(s.ids) == 0 || slices.Contains(s.ids, d.id)) &&
		(s.entity == "" || d.entity == s.entity) &&
		(s.key == "" || d.key == s.key) &&
		strings.Contains(d.reason, s.reason) &&
		(s.olderFor == 0 || !d.since.IsZero() && time.Since(d.since) >= s.olderFor)
}

// none says that there is nothing to list: of these, or at all.
func (s *selection) none(things string) string {
	if len(s.ids) > 0 || s.entity+s.key+s.reason != "" || s.olderFor > 0 {
		return "no " + things + " are selected"
	}
	return "no " + things
}
