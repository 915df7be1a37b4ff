package consumer

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

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
		in := batch[0].in
		if in.signal == event.Delete {
			return d.prepareAll(ctx, shape{to: in.to}, 1, taskStored, taskTombstones, taskRemove, taskBury)
		}
		return d.prepareAll(ctx, shape{to: in.to, absent: in.absent}, 1, taskStored, taskTombstones, taskInsert, taskUpdate, taskRevive)
	}
	if len(batch) < d.rows {
		return nil
	}
	shapes := make(map[shape]int, 1)
	for _, b := range batch {
		shapes[shape{to: b.in.to, absent: b.in.absent}]++
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
	w := &writing{decider: d, tx: tx}
	err := w.all(ctx, batch)
	return w.result, err
}

// writing is the work of one transaction.
type writing struct {
	*decider
	result
	tx     *sql.Tx
	buried [][]*subject // the deletions, by table
	again  []*bound     // what is left to be tried message by message
}

func (w *writing) all(ctx context.Context, batch []*bound) error {
	if len(batch) == 1 {
		return w.alone(ctx, batch[0])
	}
	for _, messages := range tables(batch) {
		if err := w.table(ctx, messages); err != nil {
			return err
		}
	}
	for _, keys := range slices.Backward(w.buried) { // rows may refer to those of tables before
		if err := w.bury(ctx, keys); err != nil {
			return err
		}
	}
	w.isolated = w.isolated || len(w.again) > 0
	slices.SortFunc(w.again, func(a, b *bound) int { return cmp.Compare(a.place, b.place) })
	for _, b := range w.again {
		if err := w.alone(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// table applies the messages of a table, but for the deletions.
func (w *writing) table(ctx context.Context, messages []*bound) error {
	messages, odd := w.sort(messages)
	w.again = append(w.again, odd...)
	if len(messages) == 0 {
		return nil
	}
	keys := byKey(messages)
	told, err := w.read(ctx, keys)
	if err != nil {
		return err
	}
	if !told {
		w.again = append(w.again, messages...)
		return nil
	}
	var rows, gone []*subject
	for _, k := range keys {
		k.decide()
		switch {
		case !k.changed:
			w.settle(k)
		case k.reborn && k.image != nil:
			w.later(k)
		case k.image != nil:
			rows = append(rows, k)
		default:
			gone = append(gone, k)
		}
	}
	if len(gone) > 0 {
		w.buried = append(w.buried, gone)
	}
	return w.save(ctx, rows)
}

// sort sets apart what cannot be told from its key's text, and fails what has none.
func (w *writing) sort(messages []*bound) (plain, odd []*bound) {
	for _, b := range messages {
		switch {
		case b.unkeyed != nil:
			w.fail(b.in, b.unkeyed)
			w.isolated = true
		case b.plain:
			plain = append(plain, b)
		default:
			odd = append(odd, b)
		}
	}
	return plain, odd
}

// save makes and changes rows: new ones first, to which others may refer.
func (w *writing) save(ctx context.Context, rows []*subject) error {
	var revived []*subject
	for _, what := range []string{taskInsert, taskOverwrite, taskUpdate} {
		for _, group := range w.groups(what, rows) {
			if err := w.spread(ctx, what, group); err != nil {
				return err
			}
		}
	}
	for _, k := range rows {
		if k.have.presence == tombstone && !k.misfit {
			revived = append(revived, k)
		}
	}
	if err := w.spread(ctx, taskRevive, revived); err != nil {
		return err
	}
	w.settleAll(rows)
	return nil
}

// groups parts the rows that are for one kind of statement by the columns written.
func (w *writing) groups(what string, rows []*subject) [][]*subject {
	index := map[string]int{}
	var groups [][]*subject
	for _, k := range rows {
		if w.saves(k) != what {
			continue
		}
		i, ok := index[k.image.in.absent]
		if !ok {
			i = len(groups)
			index[k.image.in.absent] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], k)
	}
	return groups
}

// saves returns the statement for a row. On MySQL a row is overwritten only where
// the insertion in that statement is sure to meet it: 0 may stand for the next
// number in an AUTO_INCREMENT column.
func (w *writing) saves(k *subject) string {
	switch {
	case k.have.presence != row:
		return taskInsert
	case w.dialect == dialect.MySQL && (!k.to.Primary || k.key()[0] == int64(0)):
		return taskUpdate
	}
	return taskOverwrite
}

// bury deletes rows and leaves tombstones. The rows first: that is what a foreign
// key can refuse.
func (w *writing) bury(ctx context.Context, keys []*subject) error {
	stored := slices.DeleteFunc(slices.Clone(keys), func(k *subject) bool { return k.have.presence != row })
	if err := w.spread(ctx, taskRemove, stored); err != nil {
		return err
	}
	left := slices.DeleteFunc(slices.Clone(keys), func(k *subject) bool { return k.misfit })
	if err := w.spread(ctx, taskBury, left); err != nil {
		return err
	}
	w.settleAll(keys)
	return nil
}

func (w *writing) settleAll(keys []*subject) {
	for _, k := range keys {
		if k.misfit {
			w.later(k)
		} else {
			w.settle(k)
		}
	}
}

// settle counts what is done.
func (w *writing) settle(k *subject) {
	w.add(k.tally)
	w.failures = append(w.failures, k.failures...)
	w.isolated = w.isolated || len(k.failures) > 0
}

// later leaves a key's messages to the end.
func (w *writing) later(k *subject) { w.again = append(w.again, k.messages...) }

// alone applies one message, or fails it.
func (w *writing) alone(ctx context.Context, b *bound) error {
	err := b.unkeyed
	if err == nil {
		err = w.once(ctx, b)
	}
	if dialect.IsDuplicate(err) { // another consumer may have made the row since it was looked for
		err = w.once(ctx, b)
	}
	if err != nil && isData(err) {
		w.isolated = true
		w.fail(b.in, w.blame(b.in, err))
		return nil
	}
	return err
}

// once is one attempt at one message.
func (w *writing) once(ctx context.Context, b *bound) error {
	k := &subject{to: b.in.to, messages: []*bound{b}}
	if _, err := w.read(ctx, []*subject{k}); err != nil {
		return err
	}
	k.decide()
	var what []string
	switch stored := k.have.presence == row; {
	case len(k.failures) > 0:
		return k.failures[0].err
	case !k.changed:
	case k.image != nil && stored:
		what = []string{taskUpdate}
	case k.image != nil && k.have.presence == tombstone:
		what = []string{taskInsert, taskRevive}
	case k.image != nil:
		what = []string{taskInsert}
	case stored:
		what = []string{taskRemove, taskBury}
	default:
		what = []string{taskBury}
	}
	for _, what := range what {
		if err := w.put(ctx, what, []*subject{k}); err != nil {
			return err
		}
	}
	w.settle(k)
	return nil
}

// blame makes a *DataError of an error on data, with the column that the server names.
func (d *decider) blame(in *incoming, err error) error {
	if data := (*DataError)(nil); errors.As(err, &data) {
		return err
	}
	name := dialect.ColumnOf(err)
	for slot := slotKey; slot < in.to.slots() && name != ""; slot++ {
		if c := in.to.column(slot); c.Name == name {
			return in.fault(c, in.values[slot], err)
		}
	}
	return in.fault(nil, nil, err)
}
