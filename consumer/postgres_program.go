package consumer

import (
	"cmp"
	"slices"
	"strings"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

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

// left is the shape for what does not follow after all.
func (s shape) left() shape { return shape{s.to, dialect.Newer, s.absent} }

// text is the statement of a shape.
func (s shape) text() string {
	if s.guard == deletion {
		return s.to.PostgresDelete()
	}
	where := s.to.writtenWithout(s.absent)
	if s.guard == following {
		return s.to.PostgresFollow(where)
	}
	return s.to.PostgresSave(s.guard, where)
}
