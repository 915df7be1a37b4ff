package consumer

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"slices"

	"github.com/lockstep-go/lockstep/internal/dialect"
)

// writing is the work of one transaction.
type writing struct {
	*decider
	result
	tx     *sql.Tx
	buried [][]*subject      // the deletions, by table
	again  []*bound          // what is left to be tried message by message
	made   map[*replica]bool // tables that have got rows
	failed bool              // a statement of several rows has failed on data
	own    map[task]ownStatement
}

func (w *writing) all(ctx context.Context, batch []*bound) error {
	if len(batch) == 1 {
		w.again = batch
		return w.singly(ctx)
	}
	for _, messages := range tables(w.putOff(batch)) {
		if err := w.table(ctx, messages); err != nil {
			return err
		}
	}
	for _, keys := range slices.Backward(w.buried) { // rows may refer to those of tables before
		if keys[0].to.sweeps && w.setAside() {
			for _, k := range keys {
				w.later(k)
			}
			continue
		}
		if err := w.bury(ctx, keys); err != nil {
			return err
		}
	}
	slices.SortFunc(w.again, func(a, b *bound) int { return cmp.Compare(a.place, b.place) })
	return w.singly(ctx)
}

// maxRounds is how often messages that fail are tried again because others passed.
const maxRounds = 4

// singly applies what is left, message by message, and those that fail once more as
// long as others pass: one may lack what another brings.
func (w *writing) singly(ctx context.Context) error {
	for round := 1; ; round++ {
		before, left := w.applied, []*bound(nil)
		var failed []failure
		for _, b := range w.again {
			err := w.retry(ctx, b)
			switch {
			case err == nil:
			case isData(err):
				left, failed = append(left, b), append(failed, failure{b.in, err})
			default:
				return err
			}
		}
		failed = withoutOvertaken(&w.result, failed)
		left = slices.DeleteFunc(left, func(b *bound) bool { return w.stored.overtaken(b.in) })
		if round < maxRounds {
			for _, in := range w.revived() {
				left = append(left, w.bind(in, in.place))
			}
		}
		if len(left) == 0 || w.applied == before || round == maxRounds {
			w.failures = append(w.failures, failed...)
			return nil
		}
		w.again = turned(left)
	}
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
	if len(rows) == 0 {
		return nil
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
	w.made[rows[0].to] = true
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

// saves returns the statement for a row.
func (w *writing) saves(k *subject) string {
	switch {
	case k.have.presence != row:
		return taskInsert
	case !w.overwrites(k.to):
		return taskUpdate
	}
	return taskOverwrite
}

// bury deletes rows and leaves tombstones. The rows first: that is what a foreign
// key can refuse.
func (w *writing) bury(ctx context.Context, keys []*subject) error {
	if err := w.lookAgain(ctx, keys); err != nil {
		return err
	}
	stored := slices.DeleteFunc(slices.Clone(keys), func(k *subject) bool { return k.have.presence != row || k.misfit })
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

// lookAgain marks those keys that had no row, and have one since the batch has made
// rows: a key that the database takes for equal has brought it. That is SQLite's;
// on MySQL such keys are no plain ones.
func (w *writing) lookAgain(ctx context.Context, keys []*subject) error {
	if w.dialect != dialect.SQLite || !w.made[keys[0].to] {
		return nil
	}
	var missing, copies []*subject
	for _, k := range keys {
		if k.have.presence != row {
			missing, copies = append(missing, k), append(copies, &subject{to: k.to, messages: k.messages})
		}
	}
	if len(missing) == 0 {
		return nil
	}
	told, err := w.read(ctx, copies)
	for i, k := range missing {
		k.misfit = !told || copies[i].have.presence == row
	}
	return err
}

func (w *writing) settleAll(keys []*subject) {
	for _, k := range keys {
		if k.misfit {
			w.isolated = true
			w.later(k)
		} else {
			w.settle(k)
		}
	}
}

// settle counts what is done.
func (w *writing) settle(k *subject) {
	w.add(k.tally)
	if len(w.stored) > 0 {
		k.noted(w.stored.note)
	}
	w.failures = append(w.failures, k.failures...)
	w.isolated = w.isolated || len(k.failures) > 0
}

// later leaves a key's messages to the end.
func (w *writing) later(k *subject) { w.again = append(w.again, k.messages...) }

// retry applies one message. Its errors on data are a *DataError.
func (w *writing) retry(ctx context.Context, b *bound) error {
	err := b.unkeyed
	if err == nil {
		err = w.once(ctx, b)
	}
	if dialect.IsDuplicate(err) { // another consumer may have made the row since it was looked for
		err = w.once(ctx, b)
	}
	if err == nil || !isData(err) {
		return err
	}
	w.isolated = true
	return w.blame(b.in, err)
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
	if err := w.change(ctx, k, what); err != nil {
		return err
	}
	w.settle(k)
	return nil
}

// change runs a key's statements. One that fails on data leaves no trace, nor do those
// before it.
func (w *writing) change(ctx context.Context, k *subject, what []string) error {
	run := func() error {
		for _, what := range what {
			if err := w.put(ctx, what, []*subject{k}); err != nil {
				return err
			}
		}
		return nil
	}
	if len(what) > 0 && (w.dialect == dialect.SQLite || what[0] == taskInsert && k.mayBeNumbered()) {
		return attempt(ctx, w.tx, run)
	}
	return run()
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
