package consumer

import (
	"context"
	"database/sql"
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
// as a query. Only what is found neither way is halved until it stands alone.
type isolation struct {
	*postgres
	result
}

// maxAccusations is how often the rest of a batch is tried again as a whole.
const maxAccusations = 4

// isolate applies a batch that failed as a whole, with the error it failed with.
func (p *postgres) isolate(ctx context.Context, batch []*incoming, failure error) (result, error) {
	iso := &isolation{postgres: p}
	iso.isolated = true
	rest, accusations := batch, []accusation(nil)
	for range maxAccusations {
		innocent, guilty, err := iso.accuse(ctx, rest, failure)
		if err != nil {
			return result{}, err
		}
		if len(innocent) == len(rest) {
			break
		}
		accusations = append(accusations, accusation{guilty, failure})
		if rest = innocent; len(rest) == 0 {
			break
		}
		var t tally
		t, failure = p.runOnce(ctx, newProgram(rest))
		if failure == nil {
			iso.add(t)
			rest = nil
			break
		}
		if !isData(failure) {
			return result{}, failure
		}
	}
	if err := iso.halve(ctx, rest); err != nil {
		return result{}, err
	}
	for _, a := range accusations {
		if err := iso.acquit(ctx, a); err != nil {
			return result{}, err
		}
	}
	return iso.result, nil
}

// accuse splits the batch by what it failed with. Messages with a value that
// cannot be converted fail for good and are in neither part.
func (iso *isolation) accuse(ctx context.Context, batch []*incoming, failure error) (innocent, guilty []*incoming, err error) {
	if dialect.IsBadValue(failure) {
		innocent, err = iso.sift(ctx, batch)
		return innocent, nil, err
	}
	guilty, err = iso.violators(ctx, dialect.ConstraintOf(failure), batch)
	return without(batch, guilty), guilty, err
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

// acquit asks about the accused again, for what they lacked may have come with
// the rest of the batch, and applies those that violate nothing any more.
func (iso *isolation) acquit(ctx context.Context, a accusation) error {
	if len(a.of) == 0 {
		return nil
	}
	guilty, err := iso.violators(ctx, dialect.ConstraintOf(a.err), a.of)
	if err != nil {
		return err
	}
	for _, in := range guilty {
		iso.fail(in, in.fault(nil, nil, a.err))
	}
	return iso.halve(ctx, without(a.of, guilty))
}

func (r *result) fail(in *incoming, err error) { r.failures = append(r.failures, failure{in, err}) }

// violators returns the messages of the batch that violate a constraint as
// things are stored now. None may only mean that there is no telling.
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
		condition, err := iso.condition(ctx, to, constraint)
		if err != nil {
			return nil, err
		}
		if condition == "" {
			continue
		}
		found, err := iso.meeting(ctx, to, condition, group)
		switch {
		case err == nil:
			guilty = append(guilty, found...)
		case dialect.IsUnreachable(err):
			return nil, err
		default: // no telling: the condition has columns that no message brings
			iso.conditions[[2]string{to.Table, constraint}] = ""
		}
	}
	return guilty, nil
}

// meeting returns the messages whose rows would meet a condition.
func (iso *isolation) meeting(ctx context.Context, to *replica, condition string, group []*incoming) ([]*incoming, error) {
	steps := make([]*step, len(group))
	for i, in := range group {
		steps[i] = newStep(in)
	}
	rows, err := iso.db.QueryContext(ctx, to.PostgresFind(condition), appendObjects(nil, steps))
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

// condition returns what rows that violate a constraint have in common, "" when
// that is not known.
func (iso *isolation) condition(ctx context.Context, to *replica, constraint string) (string, error) {
	key := [2]string{to.Table, constraint}
	if condition, known := iso.conditions[key]; known {
		return condition, nil
	}
	var condition sql.NullString
	err := iso.db.QueryRowContext(ctx, dialect.ReplicaConstraint, dialect.Postgres.Quote(to.Table), constraint,
		to.OtherKey()).Scan(&condition)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", err
	}
	iso.conditions[key] = condition.String
	return condition.String, nil
}

// halve applies messages in one transaction with savepoints, in halves and halves
// of halves where they fail.
func (iso *isolation) halve(ctx context.Context, batch []*incoming) error {
	if len(batch) == 0 {
		return nil
	}
	if err := iso.prepareParts(ctx, batch); err != nil {
		return err
	}
	return iso.transact(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, beginning(batch)); err != nil {
			return fmt.Errorf("consumer: lock: %w", err)
		}
		if _, err := tx.ExecContext(ctx, dialect.ReplicaImmediate); err != nil {
			return fmt.Errorf("consumer: isolate: %w", err)
		}
		return iso.try(ctx, tx, byTable(batch))
	})
}

// prepareParts makes sure that there is a statement for whatever a part of the
// batch may be folded into: each message with its own guard or, after one that
// overwrites any row, with that one's.
func (p *postgres) prepareParts(ctx context.Context, batch []*incoming) error {
	always := slices.ContainsFunc(batch, func(in *incoming) bool { return in.always() })
	for _, in := range batch {
		guards := []dialect.Guard{newStep(in).guard}
		switch {
		case in.signal == event.Delete:
			guards[0] = deletion
		case always:
			guards = append(guards, dialect.Always)
		}
		if guards[0] == dialect.Newer {
			guards = append(guards, following)
		}
		for _, guard := range guards {
			if err := p.prepareShape(ctx, shape{in.to, guard, in.absent}); err != nil {
				return err
			}
		}
	}
	return nil
}

// try applies a part of the batch, or halves it.
func (iso *isolation) try(ctx context.Context, tx *sql.Tx, part []*incoming) error {
	err := attempt(ctx, tx, func() error {
		t, err := iso.run(ctx, tx, newProgram(part))
		if err == nil {
			iso.add(t)
		}
		return err
	})
	switch {
	case err == nil || !isData(err):
		return err
	case len(part) == 1:
		return iso.blame(ctx, tx, part[0], err)
	}
	if err := iso.try(ctx, tx, part[:len(part)/2]); err != nil {
		return err
	}
	return iso.try(ctx, tx, part[len(part)/2:])
}

// attempt runs work within a savepoint and undoes it when it fails on data. Its
// error is work's, unless the savepoint itself fails.
func attempt(ctx context.Context, tx *sql.Tx, work func() error) error {
	if _, err := tx.ExecContext(ctx, dialect.SavepointSet); err != nil {
		return fmt.Errorf("consumer: isolate: %w", err)
	}
	failure := work()
	end := dialect.SavepointKeep
	switch {
	case failure == nil:
	case isData(failure):
		end = dialect.SavepointUndo
	default:
		return failure
	}
	if _, err := tx.ExecContext(ctx, end); err != nil {
		return fmt.Errorf("consumer: isolate: %w", err)
	}
	return failure
}

// blame records a culprit, with its column where a value could not be converted.
func (iso *isolation) blame(ctx context.Context, tx *sql.Tx, in *incoming, failure error) error {
	if !dialect.IsBadValue(failure) {
		iso.fail(in, in.fault(nil, nil, failure))
		return nil
	}
	for slot := slotKey; slot < len(in.values); slot++ {
		err := attempt(ctx, tx, func() error {
			_, err := iso.unconvertible(ctx, tx, in, []int{slot})
			return err
		})
		switch {
		case err == nil:
		case !isData(err):
			return err
		default:
			iso.fail(in, in.fault(in.to.column(slot), in.values[slot], err))
			return nil
		}
	}
	iso.fail(in, in.fault(nil, nil, failure))
	return nil
}

// unconvertible lets the database read single values as their columns do, and
// returns the first slot that it cannot read, with its error.
func (iso *isolation) unconvertible(ctx context.Context, q dialect.Querier, in *incoming, slots []int) (int, error) {
	for _, slot := range slots {
		if event.IsNull(in.values[slot]) {
			continue
		}
		object := append(append([]byte(`[{"`+dialect.MemberColumn+`":`), in.values[slot]...), `}]`...)
		var null bool
		if err := q.QueryRowContext(ctx, dialect.PostgresTry(*in.to.column(slot)), object).Scan(&null); err != nil {
			return slot, err
		}
	}
	return 0, nil
}

// suspects returns the slots whose values look wrong.
func (in *incoming) suspects() []int {
	var slots []int
	for slot := slotKey; slot < len(in.values); slot++ {
		if value := in.values[slot]; !event.IsNull(value) && suspicious(in.to.column(slot), value) {
			slots = append(slots, slot)
		}
	}
	return slots
}
