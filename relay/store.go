package relay

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lockstep-go/lockstep/internal/dialect"
)

// callTimeout bounds each statement, so that a database that stopped answering
// is an outage and not a standstill.
const callTimeout = 15 * time.Second

// closeTimeout bounds the wait for a statement's or a connection's end, which is a
// courtesy: what takes longer ends by itself.
const closeTimeout = 2 * time.Second

// bounded calls the database and returns when it has answered, or shortly after
// the timeout or ctx, and says so then. A driver may go on reading from a connection
// that has gone silent whatever its context says; the call is left to itself then.
func bounded[T any](ctx context.Context, timeout time.Duration, call func(ctx context.Context) (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	answered := make(chan answer, 1)
	go func() {
		defer cancel()
		value, err := call(ctx)
		answered <- answer{value, dialect.WithCause(ctx, err)}
	}()
	select {
	case a := <-answered:
		return a.value, a.err
	case <-ctx.Done():
	}
	grace := time.NewTimer(answerGrace) // for a driver that does obey
	defer grace.Stop()
	select {
	case a := <-answered:
		return a.value, a.err
	case <-grace.C:
		var none T
		return none, dialect.WithCause(ctx, fmt.Errorf("the database does not answer: %w", context.Cause(ctx)))
	}
}

// changeAttempts is how often a change is tried that met with another's.
const changeAttempts = 5

// unopposed makes a change within callTimeout, again when the database has undone it
// for another's: a relay settles what an operator gives up, for example.
func unopposed[T any](ctx context.Context, change func(ctx context.Context) (T, error)) (T, error) {
	return bounded(ctx, callTimeout, func(ctx context.Context) (T, error) {
		for attempt := 1; ; attempt++ {
			value, err := change(ctx)
			if err == nil || attempt == changeAttempts || dialect.Classify(err) != dialect.Conflict {
				return value, err
			}
			wait(ctx, time.Duration(attempt)*10*time.Millisecond)
		}
	})
}

// answerGrace is how long a call may take to notice that its context has ended.
const answerGrace = 100 * time.Millisecond

// store is the outbox's tables as the relay sees them. It holds no state, so its
// errors mean that the database was away.
type store struct {
	db      *sql.DB
	dialect dialect.Name
	sql     dialect.RelaySQL
}

// query is the database, or what else the statements are to be run on, as the
// dialect needs it.
func (s *store) query(on dialect.Querier) dialect.Querier { return s.dialect.Over(on) }

func newStore(db *sql.DB, d dialect.Name) *store { return &store{db: db, dialect: d, sql: d.Relay()} }

// fetcher is a connection with the statements that read the outbox.
type fetcher struct {
	*store
	conn *sql.Conn
	// forward is the prepared fetch; nil where its text changes.
	forward *sql.Stmt
	// reading is held while forward reads. The statement of a single connection is ended
	// whoever still reads from it, such as a call that nobody waits for any more; in
	// SQLite that reads memory which is another's by then.
	reading sync.Mutex
	known   visibility
	share   share
}

// visibility says whether a fetcher may see other transactions.
type visibility int

const (
	untried visibility = iota
	visible
	invisible
)

func (s *store) fetcher(ctx context.Context, of share) (*fetcher, error) {
	return bounded(ctx, callTimeout, func(ctx context.Context) (*fetcher, error) { return s.openFetcher(ctx, of) })
}

func (s *store) openFetcher(ctx context.Context, of share) (*fetcher, error) {
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	if s.sql.Fetch == "" {
		return &fetcher{store: s, conn: conn, share: of}, nil
	}
	query := s.sql.Fetch
	if of.shards > 1 {
		query = s.sql.FetchShard
	}
	forward, err := conn.PrepareContext(ctx, query)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("prepare the fetch: %w", explained(err))
	}
	return &fetcher{store: s, conn: conn, forward: forward, share: of}, nil
}

// explained adds the remedy to a preparation's error that has one.
func explained(err error) error {
	if dialect.IsForeignSession(err) {
		return fmt.Errorf("%w: connect the relay past a pooler that gives each transaction another session", err)
	}
	return err
}

// close does not wait for a connection that has gone silent.
func (f *fetcher) close() {
	_, _ = bounded(context.Background(), closeTimeout, func(context.Context) (struct{}, error) {
		f.reading.Lock()
		defer f.reading.Unlock()
		var err error
		if f.forward != nil {
			err = f.forward.Close()
		}
		return struct{}{}, errors.Join(err, f.conn.Close())
	})
}

// after reads the rows that have appeared in gaps and those behind a position.
// Rows of other shards come without metadata.
func (f *fetcher) after(ctx context.Context, position int64, ranges []gap, rows int, bytes int64) ([]row, error) {
	lows, highs := make([]int64, len(ranges)), make([]int64, len(ranges))
	for i, g := range ranges {
		lows[i], highs[i] = g.low, g.high
	}
	return bounded(ctx, callTimeout, func(ctx context.Context) ([]row, error) {
		if f.forward == nil {
			result, err := f.conn.QueryContext(ctx, dialect.MySQLFetch(position, rows, bytes, lows, highs, f.share.shard, f.share.shards))
			return scanRows(result, err, rows, "fetch")
		}
		args := []any{position, rows, bytes}
		if f.hasGaps() {
			args = append(args, f.dialect.IDs(lows), f.dialect.IDs(highs))
		}
		if f.share.shards > 1 {
			args = append(args, f.share.shards, f.share.shard)
		}
		f.reading.Lock()
		defer f.reading.Unlock()
		result, err := f.forward.QueryContext(ctx, args...)
		return scanRows(result, err, rows, "fetch")
	})
}

// highest returns the highest id there is.
func (f *fetcher) highest(ctx context.Context) (int64, error) {
	id, err := bounded(ctx, callTimeout, func(ctx context.Context) (id int64, err error) {
		err = f.conn.QueryRowContext(ctx, f.sql.Highest).Scan(&id)
		return id, err
	})
	if err != nil {
		return 0, fmt.Errorf("look for the highest id: %w", err)
	}
	return id, nil
}

// hasGaps reports whether ids may commit out of order.
func (s *store) hasGaps() bool { return s.sql.Horizon != "" }

// byID reads the rows of ids, which are tried again.
func (f *fetcher) byID(ctx context.Context, ids []int64, bytes int64) ([]row, error) {
	rows, err := bounded(ctx, callTimeout, func(ctx context.Context) ([]row, error) {
		result, err := f.query(f.conn).QueryContext(ctx, f.sql.FetchIDs, f.dialect.IDs(ids), bytes)
		return scanRows(result, err, len(ids), "fetch again")
	})
	for i := range rows {
		rows[i].retry = true
	}
	return rows, err
}

// horizon returns the lowest transaction id still running and the next one, or
// two times where transactions cannot be seen. It does not go from one to the
// other: gaps that have noted the one cannot be held against the other. It is not
// fresh when the database answers with how that was before.
func (f *fetcher) horizon(ctx context.Context) (xmin, xmax uint64, fresh bool, err error) {
	var b bounds
	if f.known != invisible {
		b, err = bounded(ctx, callTimeout, f.running)
	}
	switch {
	case f.known == untried && err == nil:
		f.known = visible
	case f.known == untried && f.sql.HorizonByAge != "" && dialect.IsDenied(err):
		f.known, err = invisible, nil
	}
	if f.known == invisible {
		b, err = bounded(ctx, callTimeout, func(ctx context.Context) (bounds, error) { return f.bounds(ctx, f.sql.HorizonByAge) })
	}
	if err == nil {
		xmin, err = strconv.ParseUint(b.lowest, 10, 64)
	}
	if err == nil {
		xmax, err = strconv.ParseUint(b.next, 10, 64)
	}
	if err != nil {
		return 0, 0, false, fmt.Errorf("read the snapshot: %w", err)
	}
	return xmin, xmax, b.fresh, nil
}

// bounds are what a horizon's statement returns.
type bounds struct {
	lowest, next string
	fresh        bool
}

// bounds reads those of a database that answers with how it is now.
func (f *fetcher) bounds(ctx context.Context, query string) (b bounds, err error) {
	b.fresh = true
	err = f.conn.QueryRowContext(ctx, query).Scan(&b.lowest, &b.next)
	return b, err
}

// running asks what is running, such that the answer shows whether it is of now.
func (f *fetcher) running(ctx context.Context) (b bounds, err error) {
	if f.sql.Touch == "" {
		return f.bounds(ctx, f.sql.Horizon)
	}
	tx, err := f.conn.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return b, err
	}
	defer func() { _ = tx.Rollback() }()
	var rows int
	if err := tx.QueryRowContext(ctx, f.sql.Touch).Scan(&rows); err != nil {
		return b, err
	}
	marked := strings.ReplaceAll(f.sql.Horizon, dialect.Mark, rand.Text())
	err = tx.QueryRowContext(ctx, marked).Scan(&b.lowest, &b.next, &b.fresh)
	return b, err
}

func scanRows(result *sql.Rows, err error, capacity int, what string) ([]row, error) {
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	defer func() { _ = result.Close() }()
	var rows []row
	for result.Next() {
		if rows == nil {
			rows = make([]row, 0, capacity)
		}
		var r row
		var key string
		if err := result.Scan(&r.id, &r.topic, &key, &r.payload, &r.metadata); err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		r.unit, r.forced = place(r.topic, key, r.metadata)
		rows = append(rows, r)
	}
	if err := result.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return rows, nil
}

// failing restores the keys that were failing under an earlier owner.
func (s *store) failing(ctx context.Context, of share, l *ledger) error {
	_, err := bounded(ctx, callTimeout, func(ctx context.Context) (sql.Result, error) {
		return s.query(s.db).ExecContext(ctx, s.sql.SweepFailures)
	})
	if err != nil {
		return fmt.Errorf("sweep failures: %w", err)
	}
	failing, err := s.allFailing(ctx, of)
	for _, f := range failing {
		// One that Admin.RetryFailures asked for has none; see hasten.
		l.block(f.row, max(f.attempts, 1), time.Now().Add(f.wait))
	}
	return err
}

// failingRow is a row that was refused, as the database knows it.
type failingRow struct {
	row      // id, unit and forced
	attempts int
	wait     time.Duration // until the next try
}

// allFailing reads the rows of a shard that are failing, in id order.
func (s *store) allFailing(ctx context.Context, of share) ([]failingRow, error) {
	all, err := bounded(ctx, callTimeout, func(ctx context.Context) ([]failingRow, error) { return s.readFailing(ctx, of) })
	if err != nil {
		return nil, fmt.Errorf("read failures: %w", err)
	}
	return all, nil
}

func (s *store) readFailing(ctx context.Context, of share) (all []failingRow, err error) {
	rows, err := s.query(s.db).QueryContext(ctx, s.sql.Failing, of.shards, of.shard)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var f failingRow
		var wait int64
		var topic, key string
		var metadata []byte
		if err := rows.Scan(&f.id, &topic, &key, &metadata, &f.attempts, &wait); err != nil {
			return nil, err
		}
		f.unit, f.forced = place(topic, key, metadata)
		f.wait = time.Duration(wait) * time.Millisecond
		all = append(all, f)
	}
	return all, rows.Err()
}

func (s *store) settleIn(ctx context.Context, q dialect.Querier, what settlement) error {
	exec := func(query string, args ...any) error {
		_, err := q.ExecContext(ctx, query, args...)
		return err
	}
	done, mended := what.done, what.mended
	for _, f := range what.failed {
		if err := exec(s.sql.Fail, f.row.id, f.attempts, errorText(f.err), f.wait.Milliseconds()); err != nil {
			return err
		}
	}
	for _, f := range what.dead {
		if err := exec(s.sql.Bury, f.row.id, errorText(f.err), f.attempts); err != nil {
			return err
		}
		done, mended = append(done, f.row.id), append(mended, f.row.id)
	}
	if err := exec(s.sql.Delete, s.dialect.IDs(done)); err != nil {
		return err
	}
	return exec(s.sql.Mend, s.dialect.IDs(mended))
}

// errorText is an error as a column can hold it.
func errorText(err error) string {
	const most = 2000
	text := strings.ToValidUTF8(strings.ReplaceAll(err.Error(), "\x00", ""), "\ufffd")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
