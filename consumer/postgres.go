package consumer

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// postgres applies a batch with one statement a table, signal and set of fields.
type postgres struct {
	*statements
	// conditions remembers what violates a constraint, by table and constraint.
	conditions map[[2]string]condition
	// suspicions are the constraints that messages violated of late, by name.
	suspicions map[string]*suspicion
}

func (p *postgres) plan(batch []*incoming) any { return newProgram(batch) }

func (p *postgres) apply(ctx context.Context, batch []*incoming, plan any) (result, error) {
	if err := p.trim(); err != nil {
		return result{}, fmt.Errorf("consumer: close statements: %w", err)
	}
	iso := &isolation{postgres: p, batch: batch}
	rest, err := iso.suspect(ctx, batch)
	if err != nil {
		return result{}, err
	}
	pr, planned := plan.(*program)
	if !planned || len(rest) < len(batch) {
		pr = newProgram(rest)
	}
	t, err := p.runOnce(ctx, pr)
	switch {
	case err == nil:
		iso.done(pr, t)
	case isData(err):
		if err := iso.isolate(ctx, rest, err); err != nil {
			return result{}, err
		}
	default:
		return result{}, err
	}
	if err := iso.acquitAll(ctx); err != nil {
		return result{}, err
	}
	err = iso.halve(ctx, iso.revived())
	iso.settled()
	return iso.result, err
}

func (p *postgres) close() error {
	clear(p.conditions)
	return p.statements.close()
}

// runOnce runs a program in a transaction of its own.
func (p *postgres) runOnce(ctx context.Context, pr *program) (tally, error) {
	if err := p.prepareFor(ctx, pr); err != nil {
		return tally{}, err
	}
	var t tally
	if len(pr.calls) == 0 {
		return t, nil
	}
	err := p.transact(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, pr.begin); err != nil {
			return fmt.Errorf("consumer: lock: %w", err)
		}
		var err error
		t, err = p.run(ctx, tx, pr)
		return err
	})
	return t, err
}

func (p *postgres) prepareFor(ctx context.Context, pr *program) error {
	for _, c := range pr.calls {
		if err := p.prepareShape(ctx, c.shape); err != nil {
			return err
		}
	}
	return nil
}

// prepareShape prepares a shape's statement and the one for what it leaves.
func (p *postgres) prepareShape(ctx context.Context, s shape) error {
	if err := p.prepare(ctx, s, s.text); err != nil || s.guard != following {
		return err
	}
	left := s.left()
	return p.prepare(ctx, left, left.text)
}

// run sends the statements of a program and counts what they did.
func (p *postgres) run(ctx context.Context, tx *sql.Tx, pr *program) (tally, error) {
	var t tally
	for _, c := range pr.calls {
		var err error
		switch c.guard {
		case deletion:
			err = p.query(ctx, tx, c.shape, c.args, func(rows *sql.Rows) error { return c.readDelete(rows, &t) })
		case following:
			err = p.follow(ctx, tx, c, &t)
		default:
			err = p.query(ctx, tx, c.shape, c.args, func(rows *sql.Rows) error { return c.readSave(rows, &t) })
		}
		if err != nil {
			return t, fmt.Errorf("consumer: apply to %s: %w", c.to.Table, err)
		}
	}
	return t, nil
}

// follow writes over the rows that hold the revision just below, and then sees
// to the messages that found no such row.
func (p *postgres) follow(ctx context.Context, tx *sql.Tx, c *call, t *tally) error {
	rest := call{shape: c.left()}
	err := p.query(ctx, tx, c.shape, c.args, func(rows *sql.Rows) error {
		for rows.Next() {
			var n int
			if err := rows.Scan(&n); err != nil {
				return err
			}
			rest.steps = append(rest.steps, c.steps[n-1])
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, s := range c.steps {
		s.stored = true
	}
	t.applied += len(c.steps) - len(rest.steps)
	t.superseded += c.superseded() - rest.superseded()
	if len(rest.steps) == 0 {
		return nil
	}
	rest.render()
	return p.query(ctx, tx, rest.shape, rest.args, func(rows *sql.Rows) error { return rest.readSave(rows, t) })
}

func (p *postgres) query(ctx context.Context, tx *sql.Tx, s shape, args []any, read func(*sql.Rows) error) error {
	rows, err := p.in(ctx, tx, s).QueryContext(ctx, args...) //nolint:sqlclosecheck // the statement is cached; database/sql closes it with the transaction
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	if err := read(rows); err != nil {
		return err
	}
	return rows.Err()
}

func (c *call) superseded() int {
	n := 0
	for _, s := range c.steps {
		n += s.superseded
	}
	return n
}

// readSave counts a save's steps. All are applied but those told otherwise.
func (c *call) readSave(rows *sql.Rows, t *tally) error {
	t.applied += len(c.steps)
	t.superseded += c.superseded()
	for _, s := range c.steps {
		s.stored = true
	}
	for rows.Next() {
		var n int
		var held sql.NullInt64
		var revives sql.NullBool
		if err := rows.Scan(&n, &held, &revives); err != nil {
			return err
		}
		t.applied--
		c.steps[n-1].count(t, held, revives)
	}
	return nil
}

// count counts a save's step by what was stored.
func (s *step) count(t *tally, held sql.NullInt64, revives sql.NullBool) {
	before := t.stale
	defer func() { s.stored = t.stale == before }()
	switch {
	case !held.Valid: // a tombstone
		if revives.Bool {
			t.applied++
		} else {
			t.stale++
		}
	case s.guard == dialect.Always:
		t.applied++
		if s.version.Revision < held.Int64 {
			t.downgraded++
		}
	case s.version.Revision < held.Int64:
		t.stale++
	case s.version.Revision == held.Int64 && s.guard == dialect.Newer:
		t.duplicate++
	default:
		t.applied++
		if s.guard == dialect.Newer {
			t.gaps += s.gaps(held.Int64)
		}
	}
}

// readDelete counts a deletion's steps by what was stored.
func (c *call) readDelete(rows *sql.Rows, t *tally) error {
	t.superseded += c.superseded()
	for rows.Next() {
		var n int
		var have state
		var held sql.NullInt64
		var updated sql.NullTime
		if err := rows.Scan(&n, &have.presence, &held, &updated); err != nil {
			return err
		}
		have.Revision, have.Updated = held.Int64, updated.Time
		s := c.steps[n-1]
		v, _ := decide(have, change{signal: event.Delete, Version: s.version})
		s.stored = v.outcome != stale
		t.count(v)
	}
	return nil
}
