package sql

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/lib/pq"
)

const (
	firstPause = 5 * time.Millisecond // between two looks into a queue that has just become empty
	maxBackoff = 5 * time.Second      // between two tries while the database is away
	rereading  = 100 * time.Millisecond
)

// entry is a message that a subscription holds.
type entry struct {
	offset   int64
	uuid     string
	payload  []byte
	metadata message.Metadata
}

// scan reads a row of read or browse. Metadata that somebody else wrote and that are none are left out:
// an error would stop the queue.
func (e *entry) scan(row wsql.Scanner) error {
	var metadata []byte
	if err := row.Scan(&e.offset, &e.uuid, &e.payload, &metadata); err != nil {
		return err
	}
	if metadata == nil || json.Unmarshal(metadata, &e.metadata) != nil {
		e.metadata = nil
	}
	return nil
}

func (e *entry) message() *message.Message {
	msg := message.NewMessage(e.uuid, e.payload)
	if e.metadata != nil {
		msg.Metadata = e.metadata
	}
	return msg
}

// claims is what a subscription plugs into watermill-sql's subscriber, whose loop it paces: the source
// of its transactions, its schema, its offsets and its backoff.
//
// The subscriber opens a transaction, reads messages, hands each on, and when one is acknowledged goes
// to the next; then it marks them and commits. Ours are acknowledged to it at once, and what it marks
// is that this subscription holds them. So its transaction lasts milliseconds. Only what the commit has
// stored is handed on. All methods are called by the subscriber's one goroutine.
type claims struct {
	sub *subscription

	read    []entry // by the present transaction
	marked  bool    // whether it marks them
	floor   int64   // nothing is to be read up to this offset, as far as we know
	whole   time.Time
	began   time.Time
	pause   time.Duration // before the next look
	asked   int           // how many messages the present transaction wants to read
	most    int           // how many the next one may read; 0: as many as there is room for
	failure error         // of a commit, which the subscriber does not tell
	doubt   []int64       // offsets that a commit may have marked, of which nobody knows whether it has happened
	patient time.Time     // until when a look waits for messages that others are reading
	away    time.Duration // the last backoff; 0: the database is there
}

// BeginTx waits until there is room for messages and, in an empty queue, for a while.
func (c *claims) BeginTx(ctx context.Context, _ *sql.TxOptions) (wsql.Tx, error) {
	if err := c.sub.room(ctx); err != nil {
		return nil, err
	}
	if c.pause > 0 {
		timer := time.NewTimer(c.pause)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-c.sub.stirred:
			c.floor = 0
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err := c.resolve(ctx); err != nil {
		return nil, err
	}
	c.read, c.marked, c.failure, c.asked = nil, false, nil, 0
	if c.began = time.Now(); c.began.After(c.whole) {
		c.floor = 0
	}
	ctx, cancel := context.WithTimeout(ctx, c.sub.b.cfg.ConfirmTimeout)
	tx, err := c.sub.b.db.BeginTx(ctx, &sql.TxOptions{Isolation: c.SubscribeIsolationLevel()})
	if err != nil {
		cancel()
		return nil, err
	}
	return &claimTx{StdSQLTx: wsql.StdSQLTx{Tx: tx}, c: c, cancel: cancel}, nil
}

// resolve gives back what a commit in doubt may have marked as ours: nobody else would look at it while we
// are alive. It waits for a transaction that is still about to commit. Nothing is read before that, so that
// nothing later is handed on first.
func (c *claims) resolve(ctx context.Context) error {
	if len(c.doubt) == 0 {
		return nil
	}
	if _, err := c.sub.b.exec(ctx, c.sub.b.sql.putBack, pq.Array(c.doubt), c.sub.holder); err != nil {
		return err
	}
	c.doubt = nil
	return nil
}

// errNoTables answers what watermill-sql's subscriber asks when it makes tables, which Open has done.
var errNoTables = errors.New("sql: a subscription makes no tables")

// ExecContext is not used.
func (c *claims) ExecContext(context.Context, string, ...any) (wsql.Result, error) {
	return nil, errNoTables
}

// QueryContext is not used.
func (c *claims) QueryContext(context.Context, string, ...any) (wsql.Rows, error) {
	return nil, errNoTables
}

// SubscribeIsolationLevel lets two subscriptions read a queue at once without failing.
func (c *claims) SubscribeIsolationLevel() sql.IsolationLevel { return sql.LevelReadCommitted }

// SelectQuery reads as many messages as there is room for.
//
// It starts behind those read before, so that it does not pass over their remains, which a long
// transaction anywhere in the database keeps from being cleaned up. Lower offsets can still appear (a
// slower commit, a message given back), so it starts at the lowest now and then: the seldomer, the
// longer that takes.
//
// After a failure the server may not have noticed yet that our transaction is gone, and keep locked what it
// had read. So that is waited for, once, and no longer than such a lock lives.
func (c *claims) SelectQuery(wsql.SelectQueryParams) (wsql.Query, error) {
	if c.asked = c.sub.free(); c.most > 0 {
		c.asked = min(c.asked, c.most)
	}
	query := c.sub.b.sql.read
	if c.began.Before(c.patient) {
		query = c.sub.b.sql.readAll
	}
	return wsql.Query{Query: query, Args: []any{c.sub.queue, c.floor, c.asked, silence(c.sub.b.cfg.Lease)}}, nil
}

// UnmarshalMessage keeps what was read; the message for the subscriber is a token for it.
func (c *claims) UnmarshalMessage(params wsql.UnmarshalMessageParams) (wsql.Row, error) {
	var e entry
	if err := e.scan(params.Row); err != nil {
		return wsql.Row{}, err
	}
	c.read = append(c.read, e)
	return wsql.Row{Offset: e.offset, Msg: message.NewMessage(e.uuid, nil)}, nil
}

// AckMessageQuery marks what was handed over as held by this subscription: what was read, up to the last
// row that the subscriber knows to be acknowledged.
func (c *claims) AckMessageQuery(params wsql.AckMessageQueryParams) (wsql.Query, error) {
	taken := 1 + slices.IndexFunc(c.read, func(e entry) bool { return e.offset == params.LastRow.Offset })
	c.read, c.marked = c.read[:taken], true
	return wsql.Query{Query: c.sub.b.sql.hold, Args: []any{c.sub.holder, pq.Array(places(c.read))}}, nil
}

func places(entries []entry) []int64 {
	offsets := make([]int64, len(entries))
	for i, e := range entries {
		offsets[i] = e.offset
	}
	return offsets
}

// pace adapts how many messages are read at a time: large ones may be too many for a slow connection,
// and reading them all again would take as long.
func (c *claims) pace(failed bool) {
	took, limit := time.Since(c.began), c.sub.b.cfg.ConfirmTimeout
	switch {
	case failed && took >= limit && c.asked > 1:
		c.most = c.asked / 2
	case !failed && took < limit/4 && c.most > 0:
		if c.most *= 2; c.most >= c.sub.b.cfg.Prefetch {
			c.most = 0
		}
	}
}

// HandleError returns how long to wait before the next transaction. It is called after each.
func (c *claims) HandleError(_ watermill.LoggerAdapter, _ bool, err error) time.Duration {
	if err == nil {
		err = c.failure
	}
	log := c.sub.b.log.With("queue", c.sub.queue)
	switch {
	case err != nil:
		select {
		case <-c.sub.quit: // that is why
			return 0
		default:
		}
		c.pace(true)
		if c.away == 0 {
			log.Warn("reading is interrupted", "error", err)
			c.sub.noteAway(time.Now())
			c.patient = time.Now().Add(c.sub.b.cfg.Lease)
		}
		c.away = min(max(2*c.away, 100*time.Millisecond), maxBackoff)
		return c.away/2 + rand.N(c.away/2) //nolint:gosec // only spreads the load
	case c.away != 0:
		log.Info("reading goes on")
		c.sub.noteAway(time.Time{})
		c.away = 0
	}
	c.pace(false)
	c.patient = time.Time{}
	if c.floor == 0 {
		c.whole = time.Now().Add(max(rereading, 20*time.Since(c.began)))
	}
	switch {
	case len(c.read) > 0:
		c.floor, c.pause = c.read[len(c.read)-1].offset, 0
	default:
		c.pause = min(max(2*c.pause, firstPause), c.sub.b.cfg.Poll)
	}
	return 0
}

// ConsumedMessageQuery is nothing.
func (c *claims) ConsumedMessageQuery(wsql.ConsumedMessageQueryParams) (wsql.Query, error) {
	return wsql.Query{}, nil
}

// NextOffsetQuery is nothing.
func (c *claims) NextOffsetQuery(wsql.NextOffsetQueryParams) (wsql.Query, error) {
	return wsql.Query{}, nil
}

// BeforeSubscribingQueries are none.
func (c *claims) BeforeSubscribingQueries(wsql.BeforeSubscribingQueriesParams) ([]wsql.Query, error) {
	return nil, nil
}

// reading is claims as watermill-sql's schema, and offsets are claims as its offsets: the two interfaces
// have a method of the same name, which neither needs, since Open makes the tables.
type (
	reading struct{ *claims }
	offsets struct{ *claims }
)

func (reading) InsertQuery(wsql.InsertQueryParams) (wsql.Query, error) {
	return wsql.Query{}, errNoTables
}

func (reading) SchemaInitializingQueries(wsql.SchemaInitializingQueriesParams) ([]wsql.Query, error) {
	return nil, nil
}

func (offsets) SchemaInitializingQueries(wsql.OffsetsSchemaInitializingQueriesParams) ([]wsql.Query, error) {
	return nil, nil
}

// claimTx hands the messages on once they are this subscription's.
type claimTx struct {
	wsql.StdSQLTx

	c      *claims
	cancel context.CancelFunc
}

// Commit commits and hands on what was read. If nobody knows whether it has committed, what was read
// is to be given back: see resolve.
func (t *claimTx) Commit() error {
	defer t.cancel()
	t.c.failure = t.Tx.Commit()
	switch {
	case t.c.failure == nil && t.c.marked:
		t.c.sub.hold(t.c.read)
		return nil
	case t.c.marked:
		t.c.doubt = places(t.c.read)
	}
	t.c.read = nil
	return t.c.failure
}

// Rollback gives up what was read.
func (t *claimTx) Rollback() error {
	defer t.cancel()
	t.c.read = nil
	return t.Tx.Rollback()
}
