package consumer

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// reading finds out whose the stored rows are.
type reading struct {
	keys map[string]*subject
	seen map[string]bool
	// confused: a row belongs to none of the keys, or to two.
	confused bool
}

// read finds out what is stored for keys of one table, and locks the rows where
// the database has such locks. A row counts more than a tombstone. told is false
// when rows cannot be told apart by the keys' texts: nothing is known then.
func (w *writing) read(ctx context.Context, keys []*subject) (told bool, err error) {
	r := reading{keys: make(map[string]*subject, len(keys)), seen: make(map[string]bool, len(keys))}
	for _, k := range keys {
		r.keys[k.text()] = k
	}
	for part := range w.parts(keys, 1+len(keys[0].key())) {
		t := newTask(keys[0].to, taskStored, "", len(part))
		err := w.query(ctx, t, keyValues(part), func(rows *sql.Rows) error { return w.readRow(rows, part, &r) })
		if err != nil || r.confused {
			return false, err
		}
	}
	missing := slices.DeleteFunc(slices.Clone(keys), func(k *subject) bool { return k.have.presence == row })
	for part := range w.parts(missing, 1) {
		t := newTask(keys[0].to, taskTombstones, "", len(part))
		if err := w.query(ctx, t, keyTexts(part), r.readTombstone); err != nil {
			return false, err
		}
	}
	return true, nil
}

// readRow reads a row's version.
func (w *writing) readRow(rows *sql.Rows, part []*subject, r *reading) error {
	to := part[0].to
	place, have, updated := 0, state{presence: row}, dialect.Time{}
	values := make([]any, len(to.Rest)+1)
	into := []any{&place}
	for i := range values {
		into = append(into, &values[i])
	}
	if err := rows.Scan(append(into, &have.Revision, &updated)...); err != nil {
		return err
	}
	have.Updated = updated.Time
	text := to.storedKey(values)
	k := part[place]
	if w.dialect == dialect.MySQL && len(part) > 1 { // which does not say whose row it is
		k = r.keys[text]
	}
	if k == nil || r.seen[text] {
		r.confused = true
		return nil
	}
	r.seen[text] = true
	k.have = have
	return nil
}

func (r *reading) readTombstone(rows *sql.Rows) error {
	have, updated, text := state{presence: tombstone}, dialect.Time{}, ""
	if err := rows.Scan(&text, &have.Revision, &updated); err != nil {
		return err
	}
	have.Updated = updated.Time
	r.keys[text].have = have
	return nil
}

// storedKey is the text of a stored key, as keyOf has it for a message's.
func (r *replica) storedKey(values []any) string {
	raw := make([][]byte, r.slots())
	for i, slot := range r.keySlots() {
		switch v := values[i].(type) {
		case uint64:
			raw[slot] = strconv.AppendUint(nil, v, 10)
		case []byte:
			if base := r.column(slot).Base; strings.HasSuffix(base, "binary") || strings.HasSuffix(base, "blob") {
				raw[slot] = appendStored(nil, v)
			} else {
				raw[slot] = event.AppendString(nil, string(v))
			}
		default:
			raw[slot] = appendStored(nil, v)
		}
	}
	return r.keyOf(raw)
}

// spread runs a statement for keys of one table that write the same columns, in
// parts that it has room for, and marks those that are misfits.
func (w *writing) spread(ctx context.Context, what string, keys []*subject) error {
	if len(keys) == 0 {
		return nil
	}
	values := len(keys[0].to.Columns) + 3
	if what == taskUpdate {
		values = maxStatementValues // one at a time
	}
	for part := range w.parts(keys, values) {
		if err := w.attempt(ctx, what, part); err != nil {
			return err
		}
	}
	return nil
}

// attempt runs a statement for keys, or several for fewer where it fails on data.
func (w *writing) attempt(ctx context.Context, what string, part []*subject) error {
	run := func() error { return w.put(ctx, what, part) }
	var err error
	if w.dialect == dialect.SQLite { // a trigger's RAISE(FAIL) leaves what was written before it
		err = attempt(ctx, w.tx, run)
	} else {
		err = run()
	}
	switch {
	case err == nil || !isData(err):
		return err
	case len(part) == 1:
		part[0].misfit = true
		return nil
	}
	w.failed = true
	for piece := range slices.Chunk(part, (len(part)+w.pieces-1)/w.pieces) {
		if err := w.attempt(ctx, what, piece); err != nil {
			return err
		}
	}
	return nil
}

// parts yields as many keys at a time as a statement takes.
func (d *decider) parts(keys []*subject, values int) func(yield func([]*subject) bool) {
	most := max(1, min(d.rows, maxStatementValues/values))
	return func(yield func([]*subject) bool) {
		for len(keys) > 0 {
			n, size := 0, 0
			for n < len(keys) && n < most && (n == 0 || size+keys[n].size() <= maxStatementBytes) {
				size += keys[n].size()
				n++
			}
			if !yield(keys[:n:n]) {
				return
			}
			keys = keys[n:]
		}
	}
}

// size is about how many bytes a key has in a statement.
func (k *subject) size() int {
	size := 16 + len(k.text())
	if k.image != nil {
		size += k.image.size
	}
	return size
}

// put runs one statement for keys. Errors on data are the driver's.
func (w *writing) put(ctx context.Context, what string, keys []*subject) error {
	absent := ""
	var args []any
	switch what {
	case taskInsert, taskOverwrite, taskUpdate:
		absent = keys[0].image.in.absent
		args = make([]any, 0, len(keys)*(len(keys[0].image.columns)+3))
		for _, k := range keys {
			args = w.appendRow(args, k, what)
		}
	case taskRemove:
		args = keyValues(keys)
	case taskBury:
		for _, k := range keys {
			args = append(args, k.text(), k.then.Revision, w.dialect.Time(k.then.Updated))
		}
	case taskRevive:
		args = keyTexts(keys)
	}
	t := newTask(keys[0].to, what, absent, len(keys))
	ctx, cancel := w.limit(ctx)
	defer cancel()
	statement, err := w.statement(ctx, t)
	if err != nil {
		return w.about(t, err)
	}
	done, err := statement.ExecContext(ctx, args...)
	if err == nil && what == taskInsert && w.dialect == dialect.MySQL && keys[0].mayBeNumbered() {
		return keys[0].numbered(done)
	}
	return w.about(t, w.ended(ctx, err))
}

// appendRow appends a row's parameters: behind the key or, in an UPDATE, before it.
func (w *writing) appendRow(args []any, k *subject, what string) []any {
	if what != taskUpdate {
		args = append(args, k.key()[0])
	}
	for i, value := range k.image.columns {
		if k.image.in.writes(i) {
			args = append(args, value)
		}
	}
	args = append(args, k.then.Revision, w.dialect.Time(k.then.Updated))
	if what == taskUpdate {
		args = append(args, k.key()...)
	}
	return args
}

// statement returns the statement of a task. Once one has failed on SQLite, those for
// fewer rows are run again and again, and parsing one costs more than running it. So they
// are prepared, for the batch.
func (w *writing) statement(ctx context.Context, t task) (statement, error) {
	text := func() string { return t.text(w.dialect) }
	if w.dialect != dialect.SQLite || !w.failed || w.prepared[t] != nil {
		return w.with(ctx, w.tx, t, text), nil
	}
	p, ok := w.own[t]
	if !ok {
		p.text = text()
		var err error
		if p.Stmt, err = w.tx.PrepareContext(ctx, p.text); err != nil {
			return nil, err
		}
		if w.own == nil {
			w.own = make(map[task]ownStatement)
		}
		w.own[t] = p
	}
	w.last, w.loose = nil, p.text
	return p, nil
}

// ownStatement is prepared for one batch.
type ownStatement struct {
	*sql.Stmt
	text string
}

// close closes them: the transaction may be a caller's, and go on for long.
func (w *writing) close() {
	for _, p := range w.own {
		_ = p.Close()
	}
}

func (w *writing) query(ctx context.Context, t task, args []any, each func(rows *sql.Rows) error) error {
	ctx, done := w.limit(ctx)
	defer done()
	statement, err := w.statement(ctx, t)
	if err != nil {
		return w.about(t, err)
	}
	rows, err := statement.QueryContext(ctx, args...)
	if err != nil {
		return w.about(t, err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := each(rows); err != nil {
			return w.about(t, err)
		}
	}
	return w.about(t, rows.Err())
}

// about says which table an error is about, unless it is one on data, which will
// be a message's.
func (w *writing) about(t task, err error) error {
	if err == nil || isData(err) {
		return err
	}
	return fmt.Errorf("consumer: apply to %s: %w", t.to.Table, err)
}

func keyValues(keys []*subject) []any {
	args := make([]any, 0, len(keys)*len(keys[0].key()))
	for _, k := range keys {
		args = append(args, k.key()...)
	}
	return args
}

func keyTexts(keys []*subject) []any {
	args := make([]any, len(keys))
	for i, k := range keys {
		args[i] = k.text()
	}
	return args
}
