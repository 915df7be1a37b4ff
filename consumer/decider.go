package consumer

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// decider applies batches where no statement decides by itself, on MySQL and on
// SQLite. What is stored for a table's keys is read, under locks where the
// database has them, decided upon here by [decide] itself, and written: each in
// one statement for many rows.
//
// That no row appears between the reading and the writing is not for sure on
// MySQL. New rows are written by an INSERT that fails then.
//
// A statement that fails on data leaves no trace on either database and the
// transaction usable. So it is halved until the culprits are known, which are
// tried again message by message when all else is written.
type decider struct {
	*statements
	dialect dialect.Name
	// value turns a JSON value into what a column is to store.
	value func(column *dialect.Column, raw []byte) (any, error)
	// plain reports whether a key's stored value is recognized by its text.
	plain func(column *dialect.Column, value any) bool
	// rows is how many rows a statement has at most. One of so many is prepared.
	rows int
	// pieces is into how many parts the rows of a statement are split that fails.
	pieces int
}

// Bounds of one statement beside its rows.
const (
	maxStatementBytes  = 512 << 10 // half of the least max_allowed_packet in use
	maxStatementValues = 30_000    // of 32,766 on SQLite, 65,535 on MySQL
)

func (d *decider) plan(batch []*incoming) any {
	all := make([]*bound, len(batch))
	for i, in := range batch {
		all[i] = d.bind(in, i)
	}
	return all
}

// bounds returns the plan of a batch, made now where there is none.
func (d *decider) bounds(batch []*incoming, plan any) []*bound {
	if all, ok := plan.([]*bound); ok && len(all) == len(batch) {
		return all
	}
	all, _ := d.plan(batch).([]*bound)
	return all
}

// prepareFor makes ready the statements that will be used again: those for a message
// that comes alone, as most do while a consumer keeps up, and those for as many rows
// as a statement has at most.
func (d *decider) prepareFor(ctx context.Context, batch []*bound) error {
	if err := d.trim(); err != nil {
		return fmt.Errorf("consumer: close statements: %w", err)
	}
	if len(batch) == 1 {
		return d.prepareOne(ctx, batch[0].in)
	}
	shapes := make(map[shape]int, 1)
	for _, b := range batch {
		s := shape{to: b.in.to, absent: b.in.absent}
		shapes[s]++
		var err error
		switch {
		case !b.plain:
			err = d.prepareOne(ctx, b.in)
		case b.in.signal != event.Delete && !d.overwrites(s.to):
			err = d.prepareAll(ctx, s, 1, taskUpdate)
		}
		if err != nil {
			return err
		}
	}
	for s, n := range shapes {
		if n < d.rows {
			continue
		}
		if err := d.prepareAll(ctx, s, d.rows, taskStored, taskTombstones, taskInsert, taskOverwrite); err != nil {
			return err
		}
	}
	return nil
}

// prepareOne makes ready the statements for a message by itself.
func (d *decider) prepareOne(ctx context.Context, in *incoming) error {
	if in.signal == event.Delete {
		return d.prepareAll(ctx, shape{to: in.to}, 1, taskStored, taskTombstones, taskRemove, taskBury)
	}
	return d.prepareAll(ctx, shape{to: in.to, absent: in.absent}, 1, taskStored, taskTombstones, taskInsert, taskUpdate, taskRevive)
}

// overwrites reports whether rows of a table can be changed by an insertion that
// meets them.
func (d *decider) overwrites(to *replica) bool {
	return d.dialect != dialect.MySQL || to.Primary && !to.Watched
}

func (d *decider) prepareAll(ctx context.Context, s shape, rows int, tasks ...string) error {
	for _, what := range tasks {
		t := newTask(s.to, what, s.absent, rows)
		if err := d.prepare(ctx, t, func() string { return t.text(d.dialect) }); err != nil {
			return err
		}
	}
	return nil
}

// run applies a batch in a transaction.
func (d *decider) run(ctx context.Context, tx *sql.Tx, batch []*bound) (result, error) {
	w := &writing{decider: d, tx: tx, made: make(map[*replica]bool)}
	defer w.close()
	w.stored = watch(batch)
	err := w.all(ctx, batch)
	w.settled()
	return w.result, err
}
