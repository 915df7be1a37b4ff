package consumer

import (
	"context"
	"database/sql"
	"fmt"
	"slices"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

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
		if !inOrder(batch) {
			batch = byTable(batch)
		}
		return iso.rounds(ctx, tx, batch)
	})
}

// rounds tries messages, and those again that other rows kept out as long as some are
// applied: one may take what another gives up, or refer to what another brings.
func (iso *isolation) rounds(ctx context.Context, tx *sql.Tx, batch []*incoming) error {
	for round := 1; len(batch) > 0; round++ {
		before, failed := iso.applied, len(iso.failures)
		if err := iso.try(ctx, tx, batch); err != nil {
			return err
		}
		if iso.applied == before || round == maxRounds {
			return nil
		}
		var final []failure
		batch = nil
		for _, f := range iso.failures[failed:] {
			if dialect.IsTaken(f.err) || dialect.IsMissingParent(f.err) {
				batch = append(batch, f.in)
			} else {
				final = append(final, f)
			}
		}
		iso.failures = append(iso.failures[:failed], final...)
		batch = turned(withoutOvertaken(&iso.result, batch))
	}
	return nil
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
		pr := newProgram(part)
		t, err := iso.run(ctx, tx, pr)
		if err == nil {
			iso.done(pr, t)
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
