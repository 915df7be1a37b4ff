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
	if d.Terminal {
		every = 200 * time.Millisecond
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	drawn := 0
	var last sample
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, err := d.sample(ctx)
		if err != nil {
			continue // the database is busy or away; the next picture will tell
		}
		if !d.Terminal {
			fmt.Fprintln(d.View, now.line(last))
		} else {
			picture := d.picture(now, last)
			if drawn > 0 {
				fmt.Fprintf(d.View, "\x1b[%dA\x1b[J", drawn)
			}
			fmt.Fprint(d.View, picture)
			drawn = strings.Count(picture, "\n")
		}
		last = now
	}
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
		{&d.Master, "accounts", &s.accounts}, {&d.Master, "authors", &s.authors},
		{&d.Replica, "account_ref", &s.accountCopies}, {&d.Replica, "author_ref", &s.authorCopies},
	} {
		if *c.n, err = d.count(ctx, c.side, []string{c.table}); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (s *sample) rate(last sample, count func(Result) int64) float64 {
	if last.at.IsZero() {
		return float64(count(s.result)) / s.result.Seconds
	}
	return float64(count(s.result)-count(last.result)) / s.at.Sub(last.at).Seconds()
}

func (s *sample) line(last sample) string {
	return fmt.Sprintf("%5.1fs  written %d  published %d  applied %d (%.0f/s)  pending %d  lag %v  latency p50 %.1f ms, p99 %.1f ms",
		s.result.Seconds, s.result.Written, s.result.Published, s.result.Applied,
		s.rate(last, func(r Result) int64 { return r.Applied }), s.pending, s.lag.Round(time.Millisecond), s.result.LatencyMS.P50, s.result.LatencyMS.P99)
}

func (d *demo) picture(s, last sample) string {
	var b strings.Builder
	row := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	row("Lockstep demo, %.0f s. Ctrl-C drains and compares both sides.", s.result.Seconds)
	row("")
	row("  %-34s %-26s %s", "MASTER", "RELAY", "REPLICA")
	row("  %-34s %-26s %s", shorten(d.Master.Name, 33), shorten(d.BrokerName, 25), shorten(d.Replica.Name, 33))
	row("  accounts %-25d %-26s account_ref %d", s.accounts, fmt.Sprintf("pending %d", s.pending), s.accountCopies)
	row("  authors  %-25d %-26s author_ref  %d", s.authors, fmt.Sprintf("lag %v", s.lag.Round(time.Millisecond)), s.authorCopies)
	row("")
	row("  events   %-25s %-26s %s",
		fmt.Sprintf("written %d", s.result.Written), fmt.Sprintf("published %d", s.result.Published), fmt.Sprintf("applied %d", s.result.Applied))
	row("  rate     %-25s %-26s %s",
		fmt.Sprintf("%.0f/s", s.rate(last, func(r Result) int64 { return r.Written })),
		fmt.Sprintf("%.0f/s", s.rate(last, func(r Result) int64 { return r.Published })),
		fmt.Sprintf("%.0f/s", s.rate(last, func(r Result) int64 { return r.Applied })))
	row("  transactions %d, rolled back %d", s.result.Transactions, s.result.RolledBack)
	row("  latency, commit to replica: p50 %.1f ms, p99 %.1f ms", s.result.LatencyMS.P50, s.result.LatencyMS.P99)
	return b.String()
}

func shorten(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}
