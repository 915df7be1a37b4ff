package consumer

import (
	"context"
	"database/sql"
	"fmt"
	"slices"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// isolation is the second attempt at a batch that holds messages which do not
// fit: in one transaction, with savepoints, in the batch's order. Messages that
// look wrong are tried alone from the start; what fails without looking wrong is
// halved until the culprit stands alone. So a few bad messages cost a few
// statements, and a thousand good ones do not become a thousand statements.
type isolation struct {
	*postgres
	tx *sql.Tx
	result
}

func (p *postgres) isolate(ctx context.Context, batch []*incoming) (result, error) {
	iso := &isolation{postgres: p}
	if err := p.prepareParts(ctx, batch); err != nil {
		return result{}, err
	}
	err := p.transact(ctx, func(tx *sql.Tx) error {
		iso.tx = tx
		if _, err := tx.ExecContext(ctx, beginning(batch)); err != nil {
			return fmt.Errorf("consumer: lock: %w", err)
		}
		if _, err := tx.ExecContext(ctx, dialect.ReplicaImmediate); err != nil {
			return fmt.Errorf("consumer: isolate: %w", err)
		}
		for len(batch) > 0 {
			n := slices.IndexFunc(batch, (*incoming).suspect)
			switch n {
			case -1:
				n = len(batch)
			case 0:
				n = 1
			}
			if err := iso.try(ctx, batch[:n]); err != nil {
				return err
			}
			batch = batch[n:]
		}
		return nil
	})
	iso.isolated = true
	return iso.result, err
}

// prepareParts makes sure that there is a statement for whatever a part of the
// batch may be folded into: each message with its own guard or, after one that
// overwrites any row, with that one's.
func (p *postgres) prepareParts(ctx context.Context, batch []*incoming) error {
	for _, in := range batch {
		sh := shape{in.to, newStep(in).guard, in.absent}
		if in.signal == event.Delete {
			sh = shape{in.to, deletion, ""}
		}
		if err := p.prepare(ctx, sh, sh.text); err != nil {
			return err
		}
	}
	if !slices.ContainsFunc(batch, func(in *incoming) bool { return in.always() }) {
		return nil
	}
	for _, in := range batch {
		sh := shape{in.to, dialect.Always, in.absent}
		if err := p.prepare(ctx, sh, sh.text); err != nil {
			return err
		}
	}
	return nil
}

// try applies a part of the batch, or halves it.
func (iso *isolation) try(ctx context.Context, part []*incoming) error {
	err := iso.attempt(ctx, func() error {
		t, err := iso.run(ctx, iso.tx, newProgram(part))
		if err == nil {
			iso.add(t)
		}
		return err
	})
	switch {
	case err == nil || dialect.Classify(err) != dialect.Data:
		return err
	case len(part) == 1:
		return iso.blame(ctx, part[0], err)
	}
	if err := iso.try(ctx, part[:len(part)/2]); err != nil {
		return err
	}
	return iso.try(ctx, part[len(part)/2:])
}

// attempt runs work within a savepoint and undoes it when it fails on data. Its
// error is work's, unless the savepoint itself fails.
func (iso *isolation) attempt(ctx context.Context, work func() error) error {
	if _, err := iso.tx.ExecContext(ctx, dialect.SavepointSet); err != nil {
		return fmt.Errorf("consumer: isolate: %w", err)
	}
	failure := work()
	end := dialect.SavepointKeep
	switch {
	case failure == nil:
	case dialect.Classify(failure) == dialect.Data:
		end = dialect.SavepointUndo
	default:
		return failure
	}
	if _, err := iso.tx.ExecContext(ctx, end); err != nil {
		return fmt.Errorf("consumer: isolate: %w", err)
	}
	return failure
}

// blame records a culprit. For a value that could not be converted it finds the
// column, those that look wrong first.
func (iso *isolation) blame(ctx context.Context, in *incoming, failure error) error {
	column, value := (*dialect.Column)(nil), []byte(nil)
	if dialect.IsBadValue(failure) {
		for _, slot := range in.bySuspicion() {
			err := iso.attempt(ctx, func() error { return iso.convert(ctx, in.to.column(slot), in.values[slot]) })
			if err != nil && dialect.Classify(err) != dialect.Data {
				return err
			}
			if err != nil {
				column, value = in.to.column(slot), in.values[slot]
				break
			}
		}
	}
	iso.fail(in, in.fault(column, value, failure))
	return nil
}

func (r *result) fail(in *incoming, err error) { r.failures = append(r.failures, failure{in, err}) }

// convert lets the database read one value as a column's.
func (iso *isolation) convert(ctx context.Context, column *dialect.Column, value []byte) error {
	object := append(append([]byte(`[{"`+dialect.MemberColumn+`":`), value...), `}]`...)
	var null bool
	return iso.tx.QueryRowContext(ctx, dialect.PostgresTry(*column), object).Scan(&null)
}

// bySuspicion returns the slots that have a value, suspects first.
func (in *incoming) bySuspicion() []int {
	var suspects, others []int
	for slot := slotKey; slot < len(in.values); slot++ {
		switch value := in.values[slot]; {
		case event.IsNull(value):
		case suspicious(in.to.column(slot), value):
			suspects = append(suspects, slot)
		default:
			others = append(others, slot)
		}
	}
	return append(suspects, others...)
}

// suspect reports whether a value of the message looks wrong.
func (in *incoming) suspect() bool {
	for slot := slotKey; slot < len(in.values); slot++ {
		if value := in.values[slot]; !event.IsNull(value) && suspicious(in.to.column(slot), value) {
			return true
		}
	}
	return false
}
