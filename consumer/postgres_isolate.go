package consumer

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// isolation takes a batch apart that holds messages which do not fit, so that
// these fail alone. Each statement costs as much as dozens of rows in a large
// one, so the culprits are not searched for but asked for: values that look wrong
// are converted one by one, and a violated constraint is put to the whole batch
// as a query, before the next ones are tried, too. Only what is found neither way
// is halved until it stands alone.
type isolation struct {
	*postgres
	result
	batch       []*incoming
	accusations []accusation
}

// takeApart begins the isolation, once.
func (iso *isolation) takeApart() {
	if !iso.isolated {
		iso.isolated, iso.stored = true, watch(iso.batch)
	}
}

// done counts a program that stands, and notes what it has stored.
func (iso *isolation) done(pr *program, t tally) {
	iso.add(t)
	if len(iso.stored) == 0 {
		return
	}
	for _, c := range pr.calls {
		for _, s := range c.steps {
			iso.stored.note(s.in, s.stored)
		}
	}
}

// maxAccusations is how often the rest of a batch is tried again as a whole.
const maxAccusations = 4

// suspicion is a constraint that messages violated of late: a batch is asked for
// more of the kind before it is tried, because that is cheaper than to fail.
type suspicion struct {
	err  error
	left int // batches without any
}

// Bounds of suspicion.
const (
	suspectedFor  = 20 // batches without a violation end it
	maxSuspicions = 4  // constraints at a time; each is a query more
)

// suspect sets apart the messages that violate a constraint which others have
// violated of late. Those that failed before are not asked for: whoever was wronged
// by a suspicion is not to fail for it again and again.
func (iso *isolation) suspect(ctx context.Context, batch []*incoming) ([]*incoming, error) {
	rest := batch
	if len(iso.suspicions) > 0 && (inOrder(batch) || slices.ContainsFunc(batch, func(in *incoming) bool { return in.ev.Retries > 0 })) {
		return batch, nil
	}
	for constraint, s := range iso.suspicions {
		guilty, err := iso.violators(ctx, constraint, rest)
		if err != nil {
			return nil, err
		}
		if len(guilty) > 0 {
			s.left = suspectedFor
			rest = iso.charge(rest, guilty, s.err)
		} else if s.left--; s.left == 0 {
			delete(iso.suspicions, constraint)
		}
	}
	return rest, nil
}

// charge takes the guilty out of a batch.
func (iso *isolation) charge(batch, guilty []*incoming, err error) []*incoming {
	iso.takeApart()
	iso.accusations = append(iso.accusations, accusation{guilty, err})
	return without(batch, guilty)
}

// isolate applies a batch that failed as a whole, with the error it failed with,
// but for the messages that it accuses.
func (iso *isolation) isolate(ctx context.Context, rest []*incoming, failure error) error {
	iso.takeApart()
	if inOrder(rest) { // without the accused a deleted row might not be made anew before others refer to it
		return iso.halve(ctx, rest)
	}
	for range maxAccusations {
		before := len(rest)
		var err error
		if rest, err = iso.accuse(ctx, rest, failure); err != nil {
			return err
		}
		if len(rest) == before {
			break
		}
		var t tally
		pr := newProgram(rest)
		t, failure = iso.runOnce(ctx, pr)
		if failure == nil {
			iso.done(pr, t)
			return nil
		}
		if !isData(failure) {
			return failure
		}
	}
	return iso.halve(ctx, rest)
}

// accuse takes those out of a batch that are to blame for what it failed with.
// Messages with a value that cannot be converted fail for good.
func (iso *isolation) accuse(ctx context.Context, batch []*incoming, failure error) (innocent []*incoming, err error) {
	if dialect.IsBadValue(failure) {
		return iso.sift(ctx, batch)
	}
	constraint := dialect.ConstraintOf(failure)
	guilty, err := iso.violators(ctx, constraint, batch)
	if err != nil || len(guilty) == 0 {
		return batch, err
	}
	if len(iso.suspicions) < maxSuspicions {
		iso.suspicions[constraint] = &suspicion{failure, suspectedFor}
	}
	return iso.charge(batch, guilty, failure), nil
}

// without returns the batch without some of its messages, in its order.
func without(batch, some []*incoming) []*incoming {
	rest := make([]*incoming, 0, len(batch))
	for _, in := range batch {
		if !slices.Contains(some, in) {
			rest = append(rest, in)
		}
	}
	return rest
}

// sift sets apart the messages with a value that the database cannot convert.
func (iso *isolation) sift(ctx context.Context, batch []*incoming) ([]*incoming, error) {
	rest := make([]*incoming, 0, len(batch))
	for _, in := range batch {
		slot, err := iso.unconvertible(ctx, iso.db, in, in.suspects())
		switch {
		case err == nil:
			rest = append(rest, in)
		case !isData(err):
			return nil, err
		default:
			iso.fail(in, in.fault(in.to.column(slot), in.values[slot], err))
		}
	}
	return rest, nil
}

// accusation is about messages that violate a constraint, and the error that
// told so.
type accusation struct {
	of  []*incoming
	err error
}

// acquitAll ends a batch: each of the accused is applied or fails. As long as some are
// applied, the others are asked about again: one may take what another gives up. After
// some rounds they are tried as they came.
func (iso *isolation) acquitAll(ctx context.Context) error {
	for round := 1; len(iso.accusations) > 0; round++ {
		before := iso.applied
		var left []accusation
		for _, a := range iso.accusations {
			a.of = withoutOvertaken(&iso.result, a.of)
			guilty, err := iso.acquit(ctx, a, round == 1)
			if err != nil {
				return err
			}
			if len(guilty) > 0 {
				left = append(left, accusation{guilty, a.err})
			}
		}
		iso.accusations = left
		switch {
		case iso.applied == before:
			iso.condemn()
		case round == maxRounds:
			return iso.tryAccused(ctx)
		}
	}
	return nil
}

// acquit asks about the accused again, for what they lacked may have come with
// the rest of the batch, and applies those that violate nothing any more. The others
// are returned.
func (iso *isolation) acquit(ctx context.Context, a accusation, anew bool) (guilty []*incoming, err error) {
	constraint := dialect.ConstraintOf(a.err)
	for _, in := range a.of { // it may be another by now, or gone: what fails, fails on what there is
		if anew {
			delete(iso.conditions, [2]string{in.to.Table, constraint})
		}
	}
	guilty, err = iso.violators(ctx, constraint, a.of)
	if err != nil {
		return nil, err
	}
	return guilty, iso.halve(ctx, without(a.of, guilty))
}

// condemn fails the accused that are left.
func (iso *isolation) condemn() {
	for _, a := range iso.accusations {
		for _, in := range a.of {
			iso.fail(in, in.fault(nil, nil, a.err))
		}
	}
	iso.accusations = nil
}

// tryAccused tries the accused that are left, as they came.
func (iso *isolation) tryAccused(ctx context.Context) error {
	var all []*incoming
	for _, a := range iso.accusations {
		all = append(all, a.of...)
	}
	iso.accusations = nil
	slices.SortFunc(all, func(a, b *incoming) int { return cmp.Compare(a.place, b.place) })
	return iso.halve(ctx, all)
}

func (r *result) fail(in *incoming, err error) { r.failures = append(r.failures, failure{in, err}) }

// violators returns the messages of the batch that violate a constraint as
// things are stored now, and are not stale: those are never written. None may only mean that there is no telling.
func (iso *isolation) violators(ctx context.Context, constraint string, batch []*incoming) ([]*incoming, error) {
	if constraint == "" {
		return nil, nil
	}
	groups := make(map[*replica][]*incoming)
	for _, in := range batch {
		if in.signal != event.Delete {
			groups[in.to] = append(groups[in.to], in)
		}
	}
	var guilty []*incoming
	for to, group := range groups {
		c, err := iso.condition(ctx, to, constraint)
		if err != nil {
			return nil, err
		}
		if group = slices.DeleteFunc(group, func(in *incoming) bool { return !c.isAbout(in) }); c.text == "" || len(group) == 0 {
			continue
		}
		found, err := iso.meeting(ctx, to, c, group)
		switch {
		case err == nil:
			guilty = append(guilty, found...)
		case isData(err): // no telling this time: a value cannot be converted
		case dialect.Classify(err) == dialect.Outage && !dialect.IsUnreachable(err): // nor ever: it has columns that no message brings
			iso.conditions[[2]string{to.Table, constraint}] = condition{}
		default:
			return nil, err
		}
	}
	return guilty, nil
}

// condition is what rows that violate a constraint have in common, in SQL, with
// the columns that it speaks of. An empty text means that it is not known.
type condition struct {
	text    string
	columns []string
}

// speaksOf reports whether a column is needed to tell if the condition is met.
func (c *condition) speaksOf(to *replica, i int) bool {
	return to.IsKey(i) || slices.Contains(c.columns, to.Columns[i].Name)
}

// isAbout reports whether a message has all that is needed to tell if its row meets the
// condition: what it does not write, the row has already or gets by default.
func (c *condition) isAbout(in *incoming) bool {
	for i := range in.to.Columns {
		if c.speaksOf(in.to, i) && !in.writes(i) {
			return false
		}
	}
	return true
}

// meeting returns the messages whose rows would meet a condition.
func (iso *isolation) meeting(ctx context.Context, to *replica, c condition, group []*incoming) ([]*incoming, error) {
	where := func(i int) bool { return c.speaksOf(to, i) }
	objects := []byte{'['}
	for i, in := range group {
		if i > 0 {
			objects = append(objects, ',')
		}
		objects = append(in.appendStale(in.appendValues(objects, where)), '}')
	}
	rows, err := iso.db.QueryContext(ctx, to.PostgresFind(c.text, where), append(objects, ']'))
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var guilty []*incoming
	for rows.Next() {
		var n int
		if err := rows.Scan(&n); err != nil {
			return nil, err
		}
		guilty = append(guilty, group[n-1])
	}
	return guilty, rows.Err()
}

// condition returns what rows that violate a constraint have in common.
func (iso *isolation) condition(ctx context.Context, to *replica, constraint string) (condition, error) {
	key := [2]string{to.Table, constraint}
	if c, known := iso.conditions[key]; known {
		return c, nil
	}
	var text, columns sql.NullString
	err := iso.db.QueryRowContext(ctx, dialect.ReplicaConstraint, dialect.Postgres.Quote(to.Table), constraint,
		to.OtherKey(), to.Moves()).Scan(&text, &columns)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return condition{}, err
	}
	c := condition{text: text.String}
	if columns.Valid {
		if err := json.Unmarshal([]byte(columns.String), &c.columns); err != nil {
			return condition{}, fmt.Errorf("consumer: the columns of constraint %s: %w", constraint, err)
		}
	}
	iso.conditions[key] = c
	return c, nil
}
