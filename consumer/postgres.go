package consumer

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// postgres applies a batch with one statement a table, signal and set of fields.
type postgres struct {
	*statements
	// conditions remembers what violates a constraint, by table and constraint.
	conditions map[[2]string]string
}

// Statements that stand where others have a guard.
const (
	deletion dialect.Guard = -1
	// following is for SAVEs of the revision after the stored one. Within a table
	// it comes last: its rows may refer to new ones of the same table.
	following = dialect.Always + 1
)

// shape tells statements apart.
type shape struct {
	to     *replica
	guard  dialect.Guard
	absent string // columns not written, as in incoming
}

// call is one statement of a batch with its parameter.
type call struct {
	shape
	steps []*step // in key order
	args  []any   // the same as JSON objects, or as arrays
}

// program is the plan of a batch: what to send, in order.
type program struct {
	begin string
	calls []*call
}

func (p *postgres) plan(batch []*incoming) any { return newProgram(batch) }

func newProgram(batch []*incoming) *program {
	pr := &program{begin: beginning(batch)}
	for _, round := range fold(batch) {
		pr.calls = append(pr.calls, calls(round)...)
	}
	return pr
}

// beginning returns the statement that takes the batch's locks.
func beginning(batch []*incoming) string {
	exclusive := make(map[string]bool)
	for _, in := range batch {
		exclusive[in.to.Table] = exclusive[in.to.Table] || in.signal == event.Delete
	}
	tables := make([]string, 0, len(exclusive))
	for t := range exclusive {
		tables = append(tables, t)
	}
	slices.Sort(tables)
	return dialect.ReplicaBegin(tables, func(table string) bool { return exclusive[table] })
}

// calls groups a round's steps by statement: first the tables in their order,
// then the deletions in the opposite one.
func calls(round []*step) []*call {
	byShape := make(map[shape]*call, 2)
	for _, s := range round {
		sh := s.shape()
		c := byShape[sh]
		if c == nil {
			c = &call{shape: sh, steps: make([]*step, 0, len(round))}
			byShape[sh] = c
		}
		c.steps = append(c.steps, s)
	}
	list := make([]*call, 0, len(byShape))
	for _, c := range byShape {
		slices.SortFunc(c.steps, func(a, b *step) int { return compareKeys(a.in.key, b.in.key) })
		c.render()
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b *call) int { return compareShapes(a.shape, b.shape) })
	return list
}

// render writes the steps as parameters. What cannot be written as arrays takes
// the way of what does not follow.
func (c *call) render() {
	if c.guard == following && c.to.PostgresArrays() {
		if c.args = arrays(c.steps); c.args == nil {
			c.shape = c.left()
		}
	}
	if c.args == nil {
		c.args = []any{appendObjects(nil, c.steps)}
	}
	if c.guard == following {
		c.args = append(c.args, len(c.steps))
	}
}

// shape returns the step's statement.
func (s *step) shape() shape {
	guard := s.guard
	if _, follows := s.follows(); follows {
		guard = following
	} else if s.deletes() {
		guard = deletion
	}
	return shape{s.in.to, guard, s.in.absent}
}

// follows reports whether a stored row is expected to hold a revision from base
// on. A master's first revision is expected to make the row.
func (s *step) follows() (base int64, ok bool) {
	if s.guard != dialect.Newer || s.deletes() {
		return 0, false
	}
	lowest := int64(1) // Lockstep's first
	if s.in.restarts {
		lowest = 0
	}
	base = s.base()
	return base, base >= lowest
}

// compareKeys is any order, as long as it is the same everywhere. This one is
// also the index's for numbers and UUIDs.
func compareKeys(a, b string) int {
	return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
}

func compareShapes(a, b shape) int {
	rank := func(s shape) int {
		if s.guard == deletion {
			return 1
		}
		return 0
	}
	order := cmp.Compare(a.to.place, b.to.place)
	if rank(a) == 1 {
		order = -order
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), order, cmp.Compare(a.guard, b.guard), strings.Compare(a.absent, b.absent))
}

// timeLayout is for reading by PostgreSQL, whatever the session's settings.
const timeLayout = "2006-01-02T15:04:05.000000Z"

// appendObjects writes steps as the JSON array that the statements take. Values
// go in as they came: no digit of a number is lost.
func appendObjects(b []byte, steps []*step) []byte {
	size := 2
	for _, s := range steps {
		size += len(s.in.ev.Data) + 64
	}
	b = append(slices.Grow(b, size), '[')
	for i, s := range steps {
		if i > 0 {
			b = append(b, ',')
		}
		b = s.appendObject(b)
	}
	return append(b, ']')
}

func (s *step) appendObject(b []byte) []byte {
	b = append(append(b, `{"`+dialect.MemberKey+`":`...), s.in.values[slotKey]...)
	for i, value := range s.in.values[slotColumn:] {
		if value != nil && (!s.deletes() || s.in.to.IsKey(i)) {
			b = strconv.AppendInt(append(b, `,"`+dialect.MemberColumn...), int64(i), 10)
			b = append(append(b, `":`...), value...)
		}
	}
	if !s.deletes() {
		b = s.appendGuards(b)
	}
	b = strconv.AppendInt(append(b, `,"`+dialect.MemberRevision+`":`...), s.version.Revision, 10)
	b = s.version.Updated.AppendFormat(append(b, `,"`+dialect.MemberUpdated+`":"`...), timeLayout)
	return append(b, `"}`...)
}

// appendGuards writes the members that most messages do not have, and the base
// of those that are expected to follow a stored revision.
func (s *step) appendGuards(b []byte) []byte {
	if base, ok := s.follows(); ok {
		b = strconv.AppendInt(append(b, `,"`+dialect.MemberBase+`":`...), base, 10)
	}
	if s.pass != s.version.Revision {
		b = strconv.AppendInt(append(b, `,"`+dialect.MemberPass+`":`...), s.pass, 10)
	}
	if !s.first.IsZero() {
		b = append(s.first.AppendFormat(append(b, `,"`+dialect.MemberFirst+`":"`...), timeLayout), '"')
	}
	return b
}

func (p *postgres) apply(ctx context.Context, batch []*incoming, plan any) (result, error) {
	pr, ok := plan.(*program)
	if !ok {
		pr = newProgram(batch)
	}
	if err := p.trim(); err != nil {
		return result{}, fmt.Errorf("consumer: close statements: %w", err)
	}
	t, err := p.runOnce(ctx, pr)
	if err == nil {
		return result{tally: t}, nil
	}
	if dialect.Classify(err) != dialect.Data {
		return result{}, err
	}
	return p.isolate(ctx, batch, err)
}

// runOnce runs a program in a transaction of its own.
func (p *postgres) runOnce(ctx context.Context, pr *program) (tally, error) {
	if err := p.prepareFor(ctx, pr); err != nil {
		return tally{}, err
	}
	var t tally
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

// left is the shape for what does not follow after all.
func (s shape) left() shape { return shape{s.to, dialect.Newer, s.absent} }

// text is the statement of a shape.
func (s shape) text() string {
	if s.guard == deletion {
		return s.to.PostgresDelete()
	}
	written := make([]bool, len(s.to.Columns))
	for i := range written {
		written[i] = true
	}
	for i := 0; i < len(s.absent); i += 2 {
		written[int(s.absent[i])|int(s.absent[i+1])<<8] = false
	}
	where := func(i int) bool { return written[i] }
	if s.guard == following {
		return s.to.PostgresFollow(where)
	}
	return s.to.PostgresSave(s.guard, where)
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
		t.count(v)
	}
	return nil
}
