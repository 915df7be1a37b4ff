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
	out     io.Writer
	what    string
	total   int64 // 0: not known
	bar     *progressbar.ProgressBar
	started time.Time
	last    time.Time
	quiet   bool
}

// quietFlag declares --quiet.
func quietFlag(cmd *cobra.Command, quiet *bool) {
	cmd.Flags().BoolVar(quiet, flagQuiet, false, "show no progress and no remarks")
}

// newProgress starts the clock. A total of 0 is an unknown one.
func newProgress(cmd *cobra.Command, quiet bool, what string, total int64) *progress {
	p := &progress{out: cmd.ErrOrStderr(), what: what, total: total, quiet: quiet, started: time.Now(), last: time.Now()}
	if !quiet && isTerminal(p.out) {
		p.bar = newBar(p.out, what, total)
	}
	return p
}

// isTerminal reports whether somebody may be watching.
func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func newBar(out io.Writer, what string, total int64) *progressbar.ProgressBar {
	if total == 0 {
		total = -1
	}
	return progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(out),
		progressbar.OptionSetDescription(what),
		progressbar.OptionShowCount(),
		progressbar.OptionShowIts(),
		progressbar.OptionSetItsString("rows"),
		progressbar.OptionSetPredictTime(true),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish(),
	)
}

// report says how many are done.
func (p *progress) report(done int64) {
	switch {
	case p.quiet:
	case p.bar != nil:
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
		return fmt.Sprintf("%s: %d rows, %.0f rows/s", p.what, done, rate)
	}
	left := time.Duration(float64(max(p.total-done, 0)) / rate * float64(time.Second)).Round(time.Second)
	return fmt.Sprintf("%s: %d of %d rows, %d%%, %.0f rows/s, %v left", p.what, done, p.total, done*100/p.total, rate, left)
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
