package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
	"github.com/lockstep-go/lockstep/internal/tracing"
)

// SyncProgress is how far a [Outbox.Sync] has come.
type SyncProgress struct {
	// Rows is how many rows were sent.
	Rows int64
	// Position is the key of the last row that was sent, "" before the first one:
	// see [SyncFrom].
	Position string
}

// SyncOption is an option of [Outbox.Sync].
type SyncOption func(*syncOptions)

type syncOptions struct {
	from     *string
	force    bool
	rate     float64
	chunk    int
	progress func(SyncProgress)
}

// SyncFrom goes on behind a position that an earlier Sync with the same filter
// has reached. An empty one starts at the beginning.
func SyncFrom(position string) SyncOption {
	return func(o *syncOptions) {
		if o.from = &position; position == "" {
			o.from = nil
		}
	}
}

// SyncForce lets replicas take the rows' revisions even where they lower theirs.
func SyncForce() SyncOption { return func(o *syncOptions) { o.force = true } }

// SyncRate sends at most so many rows a second. Default 0: no limit.
func SyncRate(rows float64) SyncOption { return func(o *syncOptions) { o.rate = rows } }

// SyncChunk makes each transaction take at most so many rows. Default 500.
func SyncChunk(rows int) SyncOption { return func(o *syncOptions) { o.chunk = rows } }

// SyncReport calls a function after each chunk was committed. Sync waits for it.
func SyncReport(to func(SyncProgress)) SyncOption { return func(o *syncOptions) { o.progress = to } }

// Bounds of one chunk's transaction.
const (
	defaultSyncChunk = 500
	syncChunkTimeout = time.Minute // a writer may hold one of its rows that long
	syncAttempts     = 20          // after deadlocks with writers
	syncBackoff      = 5 * time.Millisecond
)

// Sync sends the current state of the rows that the filter selects, as SYNC
// events through the outbox: to all replicas, or to one queue only. It raises no
// revision.
//
// Rows go in key order, in chunks. Each is a short transaction that locks its
// rows while it reads and records them, so that a SYNC takes its place among the
// events of live writes: behind that of the revision it carries, before the next.
// Rows that appear behind the position meanwhile are sent, those before it are
// not: their own events are.
//
// The result says how far it came, also beside an error; [SyncFrom] goes on from
// there. A chunk whose commit was cut off may be sent again, which is harmless.
// A filter that selects nothing sends nothing, and the zero Filter does so.
func (ob *Outbox) Sync(ctx context.Context, db *sql.DB, entity string, filter Filter, queue string, options ...SyncOption) (SyncProgress, error) {
	o := syncOptions{chunk: defaultSyncChunk}
	for _, option := range options {
		option(&o)
	}
	var reached SyncProgress
	if o.from != nil {
		reached.Position = *o.from
	}
	if err := o.validate(queue); err != nil {
		return reached, err
	}
	s, err := ob.scan(ctx, db, entity, filter)
	if err != nil || s == nil || s.Muted {
		return reached, err
	}
	if o.from != nil {
		if _, err := s.keyText(*o.from); err != nil {
			if columns := s.keyColumns(); len(columns) > 1 {
				err = fmt.Errorf("%w: use the JSON array of the texts of %s, such as [\"eu\",\"7\"]", ErrKey, strings.Join(columns, ", "))
			}
			return reached, fmt.Errorf("outbox: sync %s from %q: %w", entity, *o.from, err)
		}
	}
	run := &syncRun{scan: s, ob: ob, db: db, syncOptions: o, topic: event.Topic(entity), started: time.Now()}
	if queue != "" {
		run.topic = event.DirectTopic(queue, entity)
		run.headers = append(run.headers, event.HeaderQueue, queue)
	}
	if o.force {
		run.headers = append(run.headers, event.HeaderForce, "1")
	}
	if parent, state := tracing.Headers(ctx); parent != "" {
		if run.headers = append(run.headers, event.HeaderTraceParent, parent); state != "" {
			run.headers = append(run.headers, event.HeaderTraceState, state)
		}
	}
	return run.all(ctx, reached)
}

func (o *syncOptions) validate(queue string) error {
	var faults []error
	if queue != "" {
		if err := event.ValidateName("queue", queue); err != nil {
			faults = append(faults, fmt.Errorf("outbox: sync: %w", err))
		}
	}
	if o.rate < 0 {
		faults = append(faults, fmt.Errorf("outbox: sync: the rate is %v rows a second: use 0 for no limit, or more", o.rate))
	}
	if o.chunk < 1 {
		faults = append(faults, fmt.Errorf("outbox: sync: a chunk of %d rows: use 1 or more", o.chunk))
	}
	if o.rate > 0 { // no burst is longer than a second's rows
		o.chunk = max(1, min(o.chunk, int(o.rate)))
	}
	return errors.Join(faults...)
}

// syncRun is a Sync under way.
type syncRun struct {
	*scan
	syncOptions
	ob      *Outbox
	db      *sql.DB
	topic   string
	headers []string // names and values by turns
	started time.Time
}

func (r *syncRun) all(ctx context.Context, reached SyncProgress) (SyncProgress, error) {
	for {
		keys, err := r.retry(ctx)
		if err != nil {
			return reached, r.fault("sync", err)
		}
		if len(keys) == 0 {
			return reached, nil
		}
		reached.Rows += int64(len(keys))
		reached.Position = keys[len(keys)-1]
		r.from = &reached.Position
		if r.progress != nil {
			r.progress(reached)
		}
		if err := r.throttle(ctx, reached.Rows); err != nil {
			return reached, r.fault("sync", err)
		}
	}
}

// throttle waits until so many rows may have been sent.
func (r *syncRun) throttle(ctx context.Context, rows int64) error {
	if r.rate == 0 {
		return ctx.Err()
	}
	due := r.started.Add(time.Duration(float64(rows) / r.rate * float64(time.Second)))
	return wait(ctx, time.Until(due))
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// retry sends the next chunk, again after a deadlock with a writer.
func (r *syncRun) retry(ctx context.Context) ([]string, error) {
	for attempt := 1; ; attempt++ {
		keys, err := r.chunkOnce(ctx)
		if err == nil || attempt == syncAttempts || dialect.Classify(err) != dialect.Conflict {
			return keys, err
		}
		if err := wait(ctx, rand.N(syncBackoff<<min(attempt, 6))); err != nil { //nolint:gosec // spreads load, keeps no secret
			return nil, err
		}
	}
}

// chunkOnce locks the next rows and records their events. It returns their keys.
func (r *syncRun) chunkOnce(ctx context.Context) (keys []string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, syncChunkTimeout, fmt.Errorf("a chunk was not done within %v: does a transaction hold one of its rows?", syncChunkTimeout))
	defer cancel()
	defer func() { err = dialect.WithCause(ctx, err) }()
	sqlTx, err := r.db.BeginTx(ctx, &sql.TxOptions{Isolation: r.dialect.SyncIsolation()})
	if err != nil {
		return nil, err
	}
	defer func() { _ = sqlTx.Rollback() }() // does nothing after a commit
	tx := r.ob.Wrap(sqlTx)
	if r.dialect == SQLite {
		if _, err := sqlTx.ExecContext(ctx, dialect.SQLiteBeginWrite); err != nil {
			return nil, err
		}
	}
	keys, err = r.lock(ctx, sqlTx)
	if err != nil || len(keys) == 0 {
		return nil, err
	}
	if err := tx.sync(ctx, r, keys); err != nil {
		return nil, err
	}
	return keys, sqlTx.Commit()
}

// lock locks the rows of the next chunk and returns their keys in order.
func (r *syncRun) lock(ctx context.Context, tx *sql.Tx) ([]string, error) {
	rows, err := r.dialect.Over(tx).QueryContext(ctx, r.sql(r.from != nil).Keys, r.page(r.chunk, r.from)...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var keys []string
	for rows.Next() {
		var key string
		if r.dialect == MySQL {
			row, err := r.rowScan(operation{}).trackedRow(rows)
			if err != nil {
				return nil, err
			}
			key = row.key
		} else if err := rows.Scan(&key); err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, rows.Err()
}

// sync records the SYNC events of keys whose rows the transaction has locked.
func (tx *Tx) sync(ctx context.Context, r *syncRun, keys []string) error {
	if known := r.plan.sql.Known; known != "" {
		if _, err := tx.tx.ExecContext(ctx, known, tx.list(r.plan, keys)); err != nil {
			return err
		}
	}
	var sent int
	var err error
	if op := r.syncing(); op.sql.Record != "" {
		sent, err = tx.syncDirect(ctx, r, op, keys)
	} else {
		sent, err = tx.syncRows(ctx, r, op, keys)
	}
	if err == nil && sent != len(keys) {
		err = fmt.Errorf("%d of %d locked rows were found", sent, len(keys))
	}
	return err
}

func (tx *Tx) syncDirect(ctx context.Context, r *syncRun, op operation, keys []string) (int, error) {
	ids, err := eventIDs(len(keys))
	if err != nil {
		return 0, err
	}
	args := []any{Postgres.Texts(keys), Postgres.Texts(ids), r.topic, string(r.metadata(""))}
	if r.ob.correlationID != nil {
		id, err := r.ob.correlation(ctx)
		if err != nil {
			return 0, err
		}
		args = append(args, string(id))
	}
	done, err := tx.tx.ExecContext(ctx, op.sql.Record, args...)
	if err != nil {
		return 0, err
	}
	n, err := done.RowsAffected()
	return int(n), err
}

func (tx *Tx) syncRows(ctx context.Context, r *syncRun, op operation, keys []string) (int, error) {
	rows, err := tx.change(ctx, r.plan, op, keys)
	if err != nil {
		return 0, err
	}
	msgs, err := tx.events(ctx, r.plan, op, keys, rows)
	if err != nil {
		return 0, err
	}
	ids, err := eventIDs(len(msgs))
	if err != nil {
		return 0, err
	}
	for i := range msgs {
		msgs[i].topic, msgs[i].metadata = r.topic, string(r.metadata(ids[i]))
	}
	return len(msgs), tx.insertEvents(ctx, msgs)
}

// metadata returns a message's headers as a JSON object. The id may be "".
func (r *syncRun) metadata(id string) []byte {
	headers := r.headers
	if id != "" {
		headers = append([]string{event.HeaderEventID, id}, headers...)
	}
	b := []byte{'{'}
	for i := 0; i < len(headers); i += 2 {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(event.AppendString(b, headers[i]), ':')
		b = event.AppendString(b, headers[i+1])
	}
	return append(b, '}')
}
