package demo

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

var replicaTables = []string{"account_ref", "author_ref"}

const replicaDDL = `
CREATE TABLE account_ref (id BIGINT PRIMARY KEY, title TEXT NOT NULL, amount BIGINT NOT NULL, is_open BOOLEAN NOT NULL);
CREATE TABLE author_ref (author_id VARCHAR(40) PRIMARY KEY, full_name TEXT NOT NULL)`

// The same rows as each side has them, in the same order and form on every
// database: text keys by their bytes.
var comparisons = []struct{ what, master, replica string }{
	{
		"accounts",
		`SELECT id, name, balance, CASE WHEN active THEN 1 ELSE 0 END, cqrs_revision FROM accounts ORDER BY id`,
		`SELECT id, title, amount, CASE WHEN is_open THEN 1 ELSE 0 END, cqrs_revision FROM account_ref ORDER BY id`,
	},
	{
		"authors",
		`SELECT id, name, cqrs_revision FROM authors`,
		`SELECT author_id, full_name, cqrs_revision FROM author_ref`,
	},
}

// converge waits until both sides are equal, row by row, and returns "" then;
// otherwise what the difference was when time ran out.
func (d *demo) converge(ctx context.Context) string {
	deadline := time.NewTimer(settle)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var difference string
	for {
		pending, _, err := d.pending(ctx)
		if err != nil {
			difference = err.Error()
		} else if difference = fmt.Sprintf("%d events are still in the outbox", pending); pending == 0 {
			if difference, err = d.compare(ctx); err != nil {
				difference = err.Error()
			}
		}
		if difference == "" {
			return ""
		}
		select {
		case <-deadline.C:
			return difference
		case <-tick.C:
		}
	}
}

// compare returns the first difference between the sides, "" for none.
func (d *demo) compare(ctx context.Context) (string, error) {
	for _, c := range comparisons {
		master, err := d.Master.rows(ctx, c.master)
		if err != nil {
			return "", err
		}
		replica, err := d.Replica.rows(ctx, c.replica)
		if err != nil {
			return "", err
		}
		for i := range max(len(master), len(replica)) {
			switch {
			case i >= len(master):
				return fmt.Sprintf("%s: the replica has %s, the master has not", c.what, replica[i]), nil
			case i >= len(replica):
				return fmt.Sprintf("%s: the master has %s, the replica has not", c.what, master[i]), nil
			case master[i] != replica[i]:
				return fmt.Sprintf("%s: the master has %s, the replica %s", c.what, master[i], replica[i]), nil
			}
		}
	}
	return "", nil
}

// rows returns each row as text, sorted.
func (s *Side) rows(ctx context.Context, query string) ([]string, error) {
	rows, err := s.DB.QueryContext(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("compare: %w", err)
	}
	defer func() { _ = rows.Close() }()
	columns, err := rows.Columns()
	if err != nil {
		return nil, fmt.Errorf("compare: %w", err)
	}
	var all []string
	for rows.Next() {
		values := make([]sql.NullString, len(columns))
		targets := make([]any, len(columns))
		for i := range values {
			targets[i] = &values[i]
		}
		if err := rows.Scan(targets...); err != nil {
			return nil, fmt.Errorf("compare: %w", err)
		}
		var b strings.Builder
		for _, v := range values {
			fmt.Fprintf(&b, "|%s", v.String)
		}
		all = append(all, b.String())
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("compare: %w", err)
	}
	slices.Sort(all)
	return all, nil
}

// count returns how many rows the tables of a side have.
func (d *demo) count(ctx context.Context, s *Side, tables []string) (total int64, err error) {
	for _, table := range tables {
		var n int64
		if err := s.DB.QueryRowContext(ctx, `SELECT count(*) FROM `+table).Scan(&n); err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// pending returns how many events are in the outbox, and the age of the oldest.
func (d *demo) pending(ctx context.Context) (n int64, lag time.Duration, err error) {
	var seconds float64
	age := `COALESCE(extract(epoch FROM clock_timestamp() - min(created_at)), 0)`
	if d.Master.Dialect == "sqlite" {
		age = `COALESCE((julianday('now') - julianday(substr(min(created_at), 1, 23))) * 86400, 0)`
	}
	err = d.Master.DB.QueryRowContext(ctx, `SELECT count(*), `+age+` FROM outbox`).Scan(&n, &seconds)
	return n, time.Duration(seconds * float64(time.Second)), err
}

// lags keeps a fair sample of how long events took from commit to replica.
type lags struct {
	mu      sync.Mutex
	seen    int
	samples []float64 // milliseconds
}

const sampleSize = 20_000

func (l *lags) observe(_ string, lag time.Duration) {
	ms := float64(lag) / float64(time.Millisecond)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen++
	if len(l.samples) < sampleSize {
		l.samples = append(l.samples, ms)
	} else if i := rand.IntN(l.seen); i < sampleSize { //nolint:gosec // a sample
		l.samples[i] = ms
	}
}

// percentiles returns the lag below which each part of the events stayed.
func (l *lags) percentiles(parts ...float64) []float64 {
	l.mu.Lock()
	sorted := slices.Sorted(slices.Values(l.samples))
	l.mu.Unlock()
	result := make([]float64, len(parts))
	for i, part := range parts {
		if n := len(sorted); n > 0 {
			result[i] = float64(int64(sorted[min(n-1, int(part*float64(n)))]*1000)) / 1000
		}
	}
	return result
}
