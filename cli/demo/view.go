package demo

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// view draws the picture until ctx ends: in place on a terminal, else a line a
// second.
func (d *demo) view(ctx context.Context) {
	if d.View == nil {
		return
	}
	every := time.Second
	if d.Size != nil {
		every = 200 * time.Millisecond
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var on screen
	var last sample
	for ctx.Err() == nil {
		select {
		case <-ctx.Done(): // the last picture is of the end
		case <-tick.C:
		}
		now, err := d.sample(context.WithoutCancel(ctx))
		if err != nil {
			continue // the database is busy or away; the next picture will tell
		}
		if d.Size == nil {
			fmt.Fprintln(d.View, now.line(last))
		} else {
			width, height := d.Size()
			fmt.Fprint(d.View, on.draw(width, height, d.picture(now, last, width)))
		}
		last = now
	}
}

// screen is what stands on the terminal.
type screen struct {
	lines, width int
}

// draw returns what replaces the last picture by this one. A line that is longer
// than the terminal is wide, or a picture that is higher, would be found in
// other places than it was drawn at.
func (s *screen) draw(width, height int, lines []string) string {
	var b strings.Builder
	switch {
	case s.lines == 0:
	case s.width != width: // the terminal has wrapped what was there
		b.WriteString("\x1b[H\x1b[2J")
	default:
		fmt.Fprintf(&b, "\x1b[%dA\x1b[J", s.lines)
	}
	if height > 1 {
		lines = lines[:min(len(lines), height-1)]
	}
	for _, line := range lines {
		if width > 0 {
			line = shorten(line, width)
		}
		b.WriteString(line + "\n")
	}
	s.lines, s.width = len(lines), width
	return b.String()
}

// sample is the pipeline at one moment.
type sample struct {
	at                          time.Time
	result                      Result
	pending                     int64
	lag                         time.Duration
	accounts, authors           int64
	accountCopies, authorCopies int64
}

func (d *demo) sample(ctx context.Context) (s sample, err error) {
	s.at = time.Now()
	s.result = d.result(time.Since(d.started), "")
	if s.pending, s.lag, err = d.pending(ctx); err != nil {
		return s, err
	}
	for _, c := range []struct {
		side  *Side
		table string
		n     *int64
	}{
		{&d.Master, "accounts", &s.accounts},
		{&d.Master, "authors", &s.authors},
		{&d.Replica, "account_ref", &s.accountCopies},
		{&d.Replica, "author_ref", &s.authorCopies},
	} {
		if *c.n, err = d.count(ctx, c.side, []string{c.table}); err != nil {
			return s, err
		}
	}
	return s, nil
}

// rate returns how many a second there were since the last sample.
func (s *sample) rate(last sample, count func(Result) int64) string {
	n, seconds := count(s.result), s.result.Seconds
	if !last.at.IsZero() {
		n, seconds = n-count(last.result), s.at.Sub(last.at).Seconds()
	}
	return fmt.Sprintf("%.0f/s", float64(n)/seconds)
}

func written(r Result) int64   { return r.Written }
func published(r Result) int64 { return r.Published }
func applied(r Result) int64   { return r.Applied }

func (s *sample) line(last sample) string {
	r := s.result
	return fmt.Sprintf("%5.1fs  written %d  published %d  applied %d (%s)  pending %d  lag %v  %s",
		r.Seconds, r.Written, r.Published, r.Applied, s.rate(last, applied), s.pending, s.lag.Round(time.Millisecond), r.LatencyMS)
}

// String is the latency as people read it.
func (l Latency) String() string {
	return fmt.Sprintf("latency p50 %.1f ms, p99 %.1f ms", l.P50, l.P99)
}

// sideBySide is the width from which the three parts stand beside each other.
const sideBySide = 80

// picture returns the lines of the picture for a terminal of that width.
func (d *demo) picture(s, last sample, width int) []string {
	if width > 0 && width < sideBySide {
		return d.narrow(s, last)
	}
	var lines []string
	row := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	const columns = "  %-33s %-25s %s"
	r := s.result
	row("Lockstep demo, %.0f s. Ctrl-C drains and compares both sides.", r.Seconds)
	row("")
	row(columns, "MASTER", "RELAY", "REPLICA")
	row(columns, shorten(d.Master.Name, 32), shorten(d.BrokerName, 24), d.Replica.Name)
	row(columns, fmt.Sprintf("accounts %d", s.accounts), fmt.Sprintf("pending %d", s.pending), fmt.Sprintf("account_ref %d", s.accountCopies))
	row(columns, fmt.Sprintf("authors  %d", s.authors), fmt.Sprintf("lag %v", s.lag.Round(time.Millisecond)), fmt.Sprintf("author_ref  %d", s.authorCopies))
	row("")
	row(columns, fmt.Sprintf("events   written %d", r.Written), fmt.Sprintf("published %d", r.Published), fmt.Sprintf("applied %d", r.Applied))
	row(columns, "rate     "+s.rate(last, written), s.rate(last, published), s.rate(last, applied))
	row("  transactions %d, rolled back %d", r.Transactions, r.RolledBack)
	row("  %s, from commit to replica", r.LatencyMS)
	return lines
}

// narrow is the picture with the three parts below each other.
func (d *demo) narrow(s, last sample) []string {
	var lines []string
	row := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	r := s.result
	row("Lockstep demo, %.0f s. Ctrl-C ends it.", r.Seconds)
	row("MASTER  %s", d.Master.Name)
	row("  accounts %d, authors %d", s.accounts, s.authors)
	row("  written %d, %s", r.Written, s.rate(last, written))
	row("RELAY   %s", d.BrokerName)
	row("  pending %d, lag %v", s.pending, s.lag.Round(time.Millisecond))
	row("  published %d, %s", r.Published, s.rate(last, published))
	row("REPLICA %s", d.Replica.Name)
	row("  accounts %d, authors %d", s.accountCopies, s.authorCopies)
	row("  applied %d, %s", r.Applied, s.rate(last, applied))
	row("  %s", r.LatencyMS)
	return lines
}

// shorten cuts a text to so many characters, the dots included.
func shorten(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}
