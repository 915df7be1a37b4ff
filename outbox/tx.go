package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/lockstep-go/lockstep/internal/dialect"
)

// Tx is a database transaction that records events. It offers the query methods
// of *sql.Tx, so it fits wherever database/sql's, sqlx's or sqlc's do.
type Tx struct {
	ob      *Outbox
	tx      handle
	ctx     context.Context //nolint:containedctx // of InTx; it lives as long as the transaction
	session *session        // what tx is, in a transaction of InTx through lib/pq
	wrapped *sql.Tx         // what tx is, in a transaction of Wrap; InTx ends its own itself

	marks      []*mark // in the order in which the entities were first marked
	tracked    map[string]before
	savepoints int   // set so far
	flushing   bool  // functions of an entity are under way
	ended      error // with which MySQL rolled the transaction back; nothing is run in it any more
}

// handle is what the statements of a transaction are run on: a *sql.Tx, or a
// *sql.Conn in a transaction that a session has begun.
type handle interface {
	dialect.Querier
	PrepareContext(ctx context.Context, query string) (*sql.Stmt, error)
}

// mark is the keys of one entity that were saved and not flushed yet, or
// messages that were published in a row.
type mark struct {
	entity string
	keys   []string       // in the order in which they were marked
	at     map[string]int // their places in keys; a key that was deleted is not in it
	plain  int            // how many of keys are spelled as the database does

	messages []outgoing // published; a mark with messages has no entity
}

// live returns the keys that were not deleted since they were marked.
func (m *mark) live() []string {
	if len(m.at) == len(m.keys) {
		return m.keys
	}
	keys := make([]string, 0, len(m.at))
	for i, k := range m.keys {
		if at, marked := m.at[k]; marked && at == i {
			keys = append(keys, k)
		}
	}
	return keys
}

// InTx runs fn in a transaction of db: begin, fn, flush, commit. An error of fn
// or of the flush rolls everything back and is returned; a panic rolls back and
// goes on. fn must neither keep the Tx nor use it from another goroutine.
func (ob *Outbox) InTx(ctx context.Context, db *sql.DB, fn func(ctx context.Context, tx *Tx) error) (err error) {
	defer func() { err = dialect.WithCause(ctx, err) }()
	s, err := ob.begin(ctx, db)
	if err != nil {
		return fmt.Errorf("outbox: begin: %w", err)
	}
	if s != nil {
		return ob.inSession(ctx, s, fn)
	}
	sqlTx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("outbox: begin: %w", err)
	}
	defer func() { _ = sqlTx.Rollback() }() // does nothing after a commit
	tx := &Tx{ob: ob, tx: sqlTx, ctx: ctx}
	defer tx.end()
	if err := fn(ctx, tx); err != nil {
		return err
	}
	if err := tx.Flush(ctx); err != nil {
		return err
	}
	if err := sqlTx.Commit(); err != nil {
		return fmt.Errorf("outbox: commit: %w", err)
	}
	return nil
}

// Wrap lets a transaction that someone else began record events. End it with
// [Tx.Commit], or call [Tx.Flush] before its own commit: what is marked and not
// flushed is not sent. On a pool from [Outbox.Open] such a commit fails.
func (ob *Outbox) Wrap(tx *sql.Tx) *Tx {
	wrapped := &Tx{ob: ob, tx: tx, wrapped: tx}
	if announce := ob.announce.Load(); announce != nil {
		(*announce)(wrapped)
	}
	return wrapped
}

// Context returns the context of the transaction, which [Outbox.InTx] flushes
// with: the one that InTx was given. A transaction of [Outbox.Wrap] has none, and
// gives nil.
func (tx *Tx) Context() context.Context { return tx.ctx }

// ExecContext runs a statement in the transaction. In [Outbox.InTx], one that has
// parameters and is used again is prepared, unless Config.Unprepared says no.
func (tx *Tx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if tx.ended != nil {
		return nil, tx.ended
	}
	if tx.session != nil {
		if len(args) > 0 {
			return tx.session.exec(ctx, query, args)
		}
		tx.session.unsure = true
	}
	result, err := tx.tx.ExecContext(ctx, query, args...)
	return result, tx.note(err)
}

// QueryContext runs a query in the transaction.
func (tx *Tx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if tx.ended != nil {
		return nil, tx.ended
	}
	if tx.session != nil {
		tx.session.unsure = tx.session.unsure || len(args) == 0
		return tx.session.query(ctx, query, args)
	}
	rows, err := tx.tx.QueryContext(ctx, query, args...)
	return rows, tx.note(err)
}

// note keeps an error with which MySQL has rolled the transaction back, and with
// it its BEGIN: what came behind would be committed at once and without events.
func (tx *Tx) note(err error) error {
	if tx.ob.dialect == MySQL && err != nil && tx.ended == nil && dialect.EndsTransaction(err) {
		tx.ended = fmt.Errorf("outbox: the database has rolled the transaction back, run it again: %w", err)
	}
	return err
}

// QueryRowContext runs a query for at most one row in the transaction.
func (tx *Tx) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if tx.session != nil {
		tx.session.unsure = tx.session.unsure || len(args) == 0
		return tx.session.queryRow(ctx, query, args)
	}
	return tx.tx.QueryRowContext(ctx, query, args...)
}

// PrepareContext prepares a statement for the transaction. Close its results
// before the transaction ends: through lib/pq, [Outbox.InTx] takes an open one for
// an error, and the pool has the connection back only when it is closed.
func (tx *Tx) PrepareContext(ctx context.Context, query string) (*sql.Stmt, error) {
	if tx.session != nil {
		tx.session.left.prepared, tx.session.unsure = true, true
	}
	return tx.tx.PrepareContext(ctx, query)
}

// usable returns why the transaction takes nothing that is to be done now, to an entity
// or topic.
func (tx *Tx) usable(what, of string) error {
	if tx.flushing {
		return fmt.Errorf("outbox: %s: %w", strings.TrimSpace(what+" "+of), ErrFlushing)
	}
	return tx.ended
}

// spelled returns the texts of keys as the database spells them.
func (tx *Tx) spelled(p *plan, keys []any) ([]string, error) {
	texts, err := keyTexts(&p.Entity, keys)
	if err != nil || len(texts) == 0 {
		return nil, err
	}
	return p.spell(tx.ob.dialect, texts)
}

// Saved marks rows of an entity as created or changed. It does no I/O: the rows
// are read at the flush, and each key gives one event however often it is marked.
// Without keys it does nothing. Keys in a slice are passed one by one, or see
// [Tx.SavedRows].
func (tx *Tx) Saved(entity string, keys ...any) error {
	e, known := tx.ob.entities[entity]
	if !known {
		return tx.ob.unknown(entity)
	}
	if err := tx.usable("saved", entity); err != nil {
		return err
	}
	texts, err := keyTexts(&e, keys)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(tx.marks, func(m *mark) bool { return m.entity == entity })
	if i < 0 {
		i = len(tx.marks)
		tx.marks = append(tx.marks, &mark{entity: entity, at: map[string]int{}})
	}
	m := tx.marks[i]
	for _, k := range texts {
		if _, twice := m.at[k]; !twice {
			m.at[k] = len(m.keys)
			m.keys = append(m.keys, k)
		}
	}
	return nil
}

// Delete deletes rows of an entity and records their deletion, in one statement
// on PostgreSQL. Marks that these keys had are dropped. A key without a row is a
// [NotFoundError].
func (tx *Tx) Delete(ctx context.Context, entity string, keys ...any) error {
	return tx.remove(ctx, entity, keys, (*plan).deletion)
}

// Deleting records the deletion of rows that the caller deletes right after it,
// by a cascade or an ORM for example.
func (tx *Tx) Deleting(ctx context.Context, entity string, keys ...any) error {
	return tx.remove(ctx, entity, keys, (*plan).deleting)
}

func (tx *Tx) remove(ctx context.Context, entity string, keys []any, operation func(*plan) operation) error {
	if err := tx.usable("delete", entity); err != nil {
		return err
	}
	p, err := tx.ob.plan(ctx, tx.tx, entity)
	if err != nil {
		return err
	}
	texts, err := tx.spelled(p, keys)
	if err != nil || len(texts) == 0 {
		return err
	}
	tx.unmark(p, texts)
	if err := tx.record(ctx, p, operation(p), texts); err != nil {
		return err
	}
	if known := tx.tracked[entity]; known != nil {
		for _, key := range texts { // what is created under the key now was not there before
			known[key] = nil
		}
	}
	return nil
}

func (tx *Tx) unmark(p *plan, keys []string) {
	for _, m := range tx.marks {
		if m.entity != p.ID {
			continue
		}
		m.spell(tx.ob.dialect, p)
		for _, k := range keys {
			delete(m.at, k)
		}
	}
}

// spell spells the keys that were marked since the last time as the database does.
// What cannot be one stays: the flush tells.
func (m *mark) spell(d Dialect, p *plan) {
	for i := m.plain; i < len(m.keys); i++ {
		key := m.keys[i]
		text, _, err := p.spellOne(d, key)
		if at, marked := m.at[key]; err != nil || text == key || !marked || at != i {
			continue
		}
		delete(m.at, key)
		if _, twice := m.at[text]; !twice {
			m.keys[i], m.at[text] = text, i
		}
	}
	m.plain = len(m.keys)
}

// Savepoint runs fn between a savepoint and its release. An error of fn takes
// back what fn did, marks included, and is returned; the transaction goes on. A
// savepoint that is set and rolled back in any other way takes recorded events
// with it, while their marks are gone: do not do that around Delete, Deleting or
// Flush.
func (tx *Tx) Savepoint(ctx context.Context, fn func(ctx context.Context) error) error {
	if tx.ended != nil {
		return tx.ended
	}
	tx.savepoints++
	name := fmt.Sprintf("lockstep_%d", tx.savepoints)
	if _, err := tx.tx.ExecContext(ctx, "SAVEPOINT "+name); err != nil {
		return fmt.Errorf("outbox: set a savepoint: %w", err)
	}
	marks, tracked := cloneMarks(tx.marks), cloneTracked(tx.tracked)
	err := fn(ctx)
	if err == nil {
		if _, err := tx.tx.ExecContext(ctx, "RELEASE SAVEPOINT "+name); err != nil {
			return fmt.Errorf("outbox: release a savepoint: %w", err)
		}
		return nil
	}
	tx.marks, tx.tracked = marks, tracked // the rows' locks are gone, too
	if _, undo := tx.tx.ExecContext(ctx, "ROLLBACK TO SAVEPOINT "+name); undo != nil {
		return errors.Join(err, fmt.Errorf("outbox: roll back to a savepoint: %w", undo))
	}
	return err
}

func cloneMarks(marks []*mark) []*mark {
	clones := make([]*mark, len(marks))
	for i, m := range marks {
		clones[i] = &mark{entity: m.entity, keys: slices.Clone(m.keys), at: maps.Clone(m.at), plain: m.plain, messages: slices.Clone(m.messages)}
	}
	return clones
}

// Flush records one event for every marked key: entities in the order in which
// they were first marked, keys in the order in which they were marked. Messages
// that were published go between them, see [Tx.Publish]. It may be called more
// than once. After an error the transaction must be rolled back.
func (tx *Tx) Flush(ctx context.Context) error {
	if err := tx.usable("flush", ""); err != nil {
		return err
	}
	for _, m := range tx.marks {
		if m.entity == "" {
			if err := tx.insertMessages(ctx, m.messages); err != nil {
				return err
			}
			continue
		}
		p, err := tx.ob.plan(ctx, tx.tx, m.entity)
		if err != nil {
			return err
		}
		if err := tx.record(ctx, p, p.saving(), m.live()); err != nil {
			return err
		}
	}
	tx.marks = nil
	return nil
}

// keyTexts returns the keys as text, each once.
func keyTexts(e *Entity, keys []any) ([]string, error) {
	texts := make([]string, 0, len(keys))
	has := make(map[string]bool, len(keys))
	for _, key := range keys {
		text, err := e.keyText(key)
		if err != nil {
			return nil, fmt.Errorf("outbox: %s/%v: %w", e.ID, key, err)
		}
		if !has[text] {
			has[text] = true
			texts = append(texts, text)
		}
	}
	return texts, nil
}
