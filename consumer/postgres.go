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

// deletion stands for a DELETE where others have a guard.
const deletion dialect.Guard = -1

// shape tells statements apart.
type shape struct {
	to     *replica
	guard  dialect.Guard
	absent string // columns not written, as in incoming
}

// call is one statement of a batch with its parameter.
type call struct {
	shape
	steps   []*step // in key order
	objects []byte  // the same, as JSON
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
		sh := shape{s.in.to, s.guard, s.in.absent}
		if s.deletes() {
			sh = shape{s.in.to, deletion, ""}
		}
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
		c.objects = appendObjects(nil, c.steps)
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b *call) int { return compareShapes(a.shape, b.shape) })
	return list
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
	if !s.deletes() {
		for i, value := range s.in.values[slotColumn:] {
			if value != nil {
				b = strconv.AppendInt(append(b, `,"`+dialect.MemberColumn...), int64(i), 10)
				b = append(append(b, `":`...), value...)
			}
		}
		b = s.appendGuards(b)
	}
	b = strconv.AppendInt(append(b, `,"`+dialect.MemberRevision+`":`...), s.version.Revision, 10)
	b = s.version.Updated.AppendFormat(append(b, `,"`+dialect.MemberUpdated+`":"`...), timeLayout)
	return append(b, `"}`...)
}

// appendGuards writes the members that most messages do not have, and the base
// of those that are expected to follow a stored revision.
func (s *step) appendGuards(b []byte) []byte {
	lowest := int64(1) // Lockstep's first revision is 1
	if s.in.restarts {
		lowest = 0
	}
	if base := s.base(); s.guard == dialect.Newer && base >= lowest {
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
		if err := p.prepare(ctx, c.shape, c.text); err != nil {
			return err
		}
	}
	return nil
}

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
	return s.to.PostgresSave(s.guard, func(i int) bool { return written[i] })
}

// run sends the statements of a program and counts what they did.
func (p *postgres) run(ctx context.Context, tx *sql.Tx, pr *program) (tally, error) {
	var t tally
	for _, c := range pr.calls {
		rows, err := p.in(ctx, tx, c.shape).QueryContext(ctx, c.objects) //nolint:rowserrcheck,sqlclosecheck // readSave and readDelete see to both
		if err != nil {
			return t, fmt.Errorf("consumer: apply to %s: %w", c.to.Table, err)
		}
		read := c.readSave
		if c.guard == deletion {
			read = c.readDelete
		}
		if err := read(rows, &t); err != nil {
			return t, fmt.Errorf("consumer: apply to %s: %w", c.to.Table, err)
		}
	}
	return t, nil
}

// readSave counts a save's steps. All are applied but those told otherwise.
func (c *call) readSave(rows *sql.Rows, t *tally) error {
	defer func() { _ = rows.Close() }()
	t.applied += len(c.steps)
	for _, s := range c.steps {
		t.superseded += s.superseded
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
	return rows.Err()
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
	defer func() { _ = rows.Close() }()
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
		t.superseded += s.superseded
	}
	return rows.Err()
}
