package cli

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

const flagQuiet = "quiet"

// progressEvery is the time between two plain lines.
const progressEvery = 5 * time.Second

// progress shows how far something long has come: a bar with rate and time left
// on a terminal, plain lines now and then elsewhere, nothing when it is to be
// quiet. Everything goes to standard error.
type progress struct {
	out      io.Writer
	what     string
	units    string         // what is counted
	total    int64          // 0: not known
	share    func() float64 // of the input that is read, from which the total is estimated; nil: it is not
	terminal bool
	bar      *progressbar.ProgressBar
	started  time.Time
	last     time.Time
	quiet    bool
}

// quietFlag declares --quiet.
func quietFlag(cmd *cobra.Command, quiet *bool) {
	cmd.Flags().BoolVar(quiet, flagQuiet, false, "show no progress and no remarks")
}

// newProgress starts the clock. A total of 0 is an unknown one.
func newProgress(cmd *cobra.Command, quiet bool, what string, total int64) *progress {
	out := cmd.ErrOrStderr()
	return &progress{
		out: out, what: what, units: "rows", total: total, quiet: quiet, terminal: isTerminal(out),
		started: time.Now(), last: time.Now(),
	}
}

// isTerminal reports whether somebody may be watching.
func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func (p *progress) newBar() *progressbar.ProgressBar {
	total := p.total
	if total == 0 {
		total = -1
	}
	return progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(p.out),
		progressbar.OptionSetDescription(p.what),
		progressbar.OptionShowCount(),
		progressbar.OptionShowIts(),
		progressbar.OptionSetItsString(p.units),
		progressbar.OptionSetPredictTime(true),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish(),
	)
}

// report says how many are done.
func (p *progress) report(done int64) {
	if p.share != nil && done > 0 {
		if share := p.share(); share > 0 {
			p.total = int64(float64(done)/share) + 1 // a bar that is full goes away
		}
	}
	switch {
	case p.quiet:
	case p.terminal:
		if p.bar == nil {
			p.bar = p.newBar()
		} else if p.share != nil && p.total > 0 {
			p.bar.ChangeMax64(p.total)
		}
		_ = p.bar.Set64(done) // what cannot be shown is not shown
	case time.Since(p.last) >= progressEvery:
		p.last = time.Now()
		fmt.Fprintln(p.out, p.line(done))
	}
}

// line is the plain form.
func (p *progress) line(done int64) string {
	rate := float64(done) / time.Since(p.started).Seconds()
	if p.total == 0 || done == 0 {
		return fmt.Sprintf("%s: %d %s, %.0f %s/s", p.what, done, p.units, rate, p.units)
	}
	left := time.Duration(float64(max(p.total-done, 0)) / rate * float64(time.Second)).Round(time.Second)
	of := "of"
	if p.share != nil {
		of = "of about"
	}
	return fmt.Sprintf("%s: %d %s %d %s, %d%%, %.0f %s/s, %v left",
		p.what, done, of, p.total, p.units, done*100/p.total, rate, p.units, left)
}

// end takes the bar away.
func (p *progress) end() {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
}

// remark prints a line beside the results.
func (p *progress) remark(format string, args ...any) {
	if !p.quiet {
		p.end()
		fmt.Fprintf(p.out, format+"\n", args...)
	}
}
