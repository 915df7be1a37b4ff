package outbox

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lockstep-go/lockstep/internal/dialect"
)

// A session is a server session of PostgreSQL, reached through lib/pq, that InTx
// has for one transaction. It saves the round trips that would make recording an
// event dearer than a third of the caller's own update:
//
//   - An unprepared statement with parameters takes two, and is planned each time.
//     Here, what is used again is prepared once for each session, the caller's
//     statements included.
//   - A single event is recorded in the round trip of the COMMIT. The driver has no
//     call for this, so it is text: EXECUTE …; COMMIT. An error of the first keeps
//     the second from being run. database/sql's own transaction could not be used
//     for it, because the driver would not know that it has ended.
type session struct {
	conn     *sql.Conn
	prepared *prepared
	name     func() string // a new one for a prepared statement
	left     leftover
	// unsure says that the transaction may have been ended by a statement of fn's.
	// One with parameters cannot do that.
	unsure bool
}

// prepared is what a server session has prepared. Only who has its connection
// uses it.
type prepared struct {
	byText map[string]*statement
	used   time.Time
}

// statement is a text that was used. It is prepared when it is used again.
type statement struct {
	again bool        // whether it was used before
	stmt  driver.Stmt // nil: not prepared
	stale int         // how often stmt had to be given up
	name  string      // of one for EXECUTE; "": not prepared
}

const (
	// maxStatements bounds what is prepared in a session. A program has fewer texts
	// than this unless it writes values into them.
	maxStatements = 256
	// maxStale is how often a statement is prepared anew before it is left unprepared.
	maxStale = 3
	// sessionLife is how long a session that is not used is remembered: its
	// connection may have been closed, which nobody says.
	sessionLife = 10 * time.Minute
	// maxSessions bounds how many are remembered, of pools that renew their
	// connections often. One that is forgotten prepares its statements anew.
	maxSessions = 1000
	// rollbackTimeout bounds a rollback. The context of the transaction may have ended.
	rollbackTimeout = 5 * time.Second
)

// sessions remembers what the sessions have prepared, by the driver's connection.
type sessions struct {
	id string // in the names of prepared statements: other Outboxes may share a connection

	mu    sync.Mutex
	known map[any]*prepared
	swept time.Time
	named int // names given, so that none is used twice
}

// begin begins a transaction in a session. It returns nil without an error when
// database/sql should do it: with another driver, or after a restart of the server,
// when only database/sql can get past the pool's dead connections.
func (ob *Outbox) begin(ctx context.Context, db *sql.DB) (*session, error) {
	if ob.unprepared || !dialect.IsLibPQ(db) {
		return nil, nil
	}
	for range 2 {
		conn, err := db.Conn(ctx)
		if err != nil {
			return nil, err
		}
		s := &session{conn: conn, name: ob.sessions.name}
		_, err = conn.ExecContext(ctx, "BEGIN READ WRITE") // as database/sql does it
		if err == nil {
			err = conn.Raw(func(dc any) error {
				s.prepared = ob.sessions.find(dc, time.Now())
				return nil
			})
		}
		if err == nil {
			return s, nil
		}
		s.end(ctx, false)
		if ctx.Err() != nil || !errors.Is(err, driver.ErrBadConn) {
			return nil, errors.Join(ctx.Err(), err)
		}
	}
	return nil, nil
}

func (all *sessions) find(dc any, now time.Time) *prepared {
	all.mu.Lock()
	defer all.mu.Unlock()
	if now.Sub(all.swept) > sessionLife {
		all.swept = now
		all.forget(now.Add(-sessionLife))
	}
	p := all.known[dc]
	if p == nil {
		if len(all.known) >= maxSessions {
			all.forgetHalf()
		}
		p = &prepared{byText: map[string]*statement{}}
		all.known[dc] = p
	}
	p.used = now
	return p
}

// forget forgets the sessions that were last used before a time.
func (all *sessions) forget(before time.Time) {
	maps.DeleteFunc(all.known, func(_ any, p *prepared) bool { return p.used.Before(before) })
}

// forgetHalf forgets those that were not used for the longest time.
func (all *sessions) forgetHalf() {
	var used []time.Time
	for _, p := range all.known {
		used = append(used, p.used)
	}
	slices.SortFunc(used, time.Time.Compare)
	all.forget(used[len(used)/2])
}

// name returns a new name for a prepared statement.
func (all *sessions) name() string {
	all.mu.Lock()
	defer all.mu.Unlock()
	all.named++
	return fmt.Sprintf("lockstep_%s_%d", all.id, all.named)
}

// inSession is InTx in a session, whose connection it gives back.
func (ob *Outbox) inSession(ctx context.Context, s *session, fn func(ctx context.Context, tx *Tx) error) (err error) {
	committed := false
	defer func() {
		s.end(ctx, committed)
		if committed {
			return
		}
		if dialect.IsForeignSession(err) {
			err = fmt.Errorf("%w: if a pooler gives each transaction another session, set Config.Unprepared", err)
		}
	}()
	tx := &Tx{ob: ob, tx: s.conn, session: s, ctx: ctx}
	defer tx.end()
	if err := fn(ctx, tx); err != nil {
		return err
	}
	s.left.close()
	if err := s.inStep(ctx); err != nil {
		return err
	}
	if err := tx.flushAndCommit(ctx); err != nil {
		return err
	}
	committed = true
	return nil
}

// flushAndCommit flushes; a single key that comes last is recorded with the commit.
func (tx *Tx) flushAndCommit(ctx context.Context) error {
	p, key, err := tx.lastKey(ctx)
	if err != nil {
		return err
	}
	if err := tx.Flush(ctx); err != nil {
		return err
	}
	var args []string
	if p != nil {
		if args, err = tx.ob.saveOneArgs(ctx, key); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil { // which the driver may notice too late
		return commitFault(err)
	}
	if p == nil {
		return commitFault(tx.session.commit(ctx))
	}
	err = tx.session.executeAndCommit(ctx, p.sql.SaveOne, args...)
	switch {
	case err == nil:
		return nil
	case dialect.IsNoSuchKey(err):
		return &NotFoundError{Entity: p.ID, Keys: []string{key}}
	}
	if tx.session.hasEnded(ctx, err) { // so it was the COMMIT: a deferred constraint, for example
		return commitFault(err)
	}
	tx.ob.forget(p.ID) // the table may have been altered
	return p.blame([]string{key}, err)
}

func commitFault(err error) error {
	switch {
	case err == nil:
		return nil
	case dialect.IsNoTransaction(err):
		return fmt.Errorf("%w: %w", errEnded, err)
	}
	return fmt.Errorf("outbox: commit: %w", err)
}

// hasEnded tells after an error whether the server has ended the transaction, or
// waits for it to be rolled back.
func (s *session) hasEnded(ctx context.Context, err error) bool {
	if dialect.IsNoTransaction(err) {
		return true
	}
	if dialect.Classify(err) != dialect.Data {
		return false // it makes no difference
	}
	_, err = s.conn.ExecContext(ctx, inTransaction)
	return dialect.IsNoTransaction(err)
}

// lastKey takes the last mark away if it is a single key whose event the database
// makes by itself.
func (tx *Tx) lastKey(ctx context.Context) (p *plan, key string, err error) {
	n := len(tx.marks)
	if n == 0 || len(tx.marks[n-1].at) != 1 {
		return nil, "", nil
	}
	last := tx.marks[n-1]
	p, err = tx.ob.plan(ctx, tx.tx, last.entity)
	if err != nil || p.sql.SaveOne == "" {
		return nil, "", err
	}
	tx.marks = tx.marks[:n-1]
	keys, err := p.spell(tx.ob.dialect, last.live())
	if err != nil {
		return nil, "", err
	}
	return p, keys[0], nil
}

// inTransaction is refused in a transaction that has failed and where there is none.
const inTransaction = "SAVEPOINT lockstep_commit"

// commit commits. A COMMIT alone would end a transaction that has failed, or that
// fn has ended by a statement of its own, without an error.
func (s *session) commit(ctx context.Context) error {
	_, err := s.conn.ExecContext(ctx, inTransaction+"; COMMIT")
	return err
}

// executeAndCommit runs a statement with text parameters and commits.
func (s *session) executeAndCommit(ctx context.Context, text string, args ...string) error {
	known := s.prepared.find(text)
	if known == nil { // there is no room for it
		if _, err := s.conn.ExecContext(ctx, text, anys(args)...); err != nil {
			return err
		}
		return s.commit(ctx)
	}
	if known.name == "" {
		name := s.name()
		if _, err := s.conn.ExecContext(ctx, "PREPARE "+name+" (text"+strings.Repeat(", text", len(args)-1)+") AS "+text); err != nil {
			return err
		}
		known.name = name
	}
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = dialect.Postgres.QuoteText(arg)
	}
	batch := "EXECUTE " + known.name + "(" + strings.Join(quoted, ", ") + "); "
	if s.unsure {
		batch += inTransaction + "; "
	}
	_, err := s.conn.ExecContext(ctx, batch+"COMMIT")
	if err != nil && dialect.IsStale(err) {
		known.name = ""
	}
	return err
}

// exec runs a statement with parameters.
func (s *session) exec(ctx context.Context, text string, args []any) (sql.Result, error) {
	known := s.prepared.find(text)
	if known == nil || !known.again || known.stale == maxStale {
		if known != nil {
			known.again = true
		}
		return s.conn.ExecContext(ctx, text, args...)
	}
	var done sql.Result
	err := s.conn.Raw(func(dc any) (err error) {
		if known.stmt == nil {
			if known.stmt, err = dc.(driver.ConnPrepareContext).PrepareContext(ctx, text); err != nil {
				return err
			}
		}
		values, err := driverValues(dc, args)
		if err != nil {
			return err
		}
		done, err = known.stmt.(driver.StmtExecContext).ExecContext(ctx, values)
		if err != nil && dialect.IsStale(err) {
			_ = known.stmt.Close()
			known.stmt = nil
			known.stale++
		}
		return err
	})
	return done, err
}

// driverValues turns arguments into the driver's, as database/sql does.
func driverValues(dc any, args []any) ([]driver.NamedValue, error) {
	values := make([]driver.NamedValue, len(args))
	for i, arg := range args {
		values[i] = driver.NamedValue{Ordinal: i + 1, Value: arg}
		if named, ok := arg.(sql.NamedArg); ok {
			values[i].Name, values[i].Value = named.Name, named.Value
		}
		err := dc.(driver.NamedValueChecker).CheckNamedValue(&values[i])
		if errors.Is(err, driver.ErrSkip) {
			values[i].Value, err = driver.DefaultParameterConverter.ConvertValue(values[i].Value)
		}
		if err != nil {
			return nil, fmt.Errorf("sql: converting argument $%d type: %w", i+1, err)
		}
	}
	return values, nil
}

func (p *prepared) find(text string) *statement {
	known := p.byText[text]
	if known == nil && len(p.byText) < maxStatements {
		known = &statement{}
		p.byText[text] = known
	}
	return known
}
