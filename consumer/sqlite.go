package consumer

import (
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// sqlite applies a batch message by message: what is stored, decide, write.
type sqlite struct {
	*statements
}

// task tells a replica's prepared statements apart.
type task struct {
	to     *replica
	what   string
	absent string
}

// What a task does.
const (
	taskStored = "stored"
	taskSave   = "save"
	taskDelete = "delete"
	taskBury   = "bury"
	taskRevive = "revive"
)

func (s *sqlite) plan([]*incoming) any { return nil }

func (s *sqlite) apply(ctx context.Context, batch []*incoming, _ any) (result, error) {
	if err := s.trim(); err != nil {
		return result{}, fmt.Errorf("consumer: close statements: %w", err)
	}
	batch = byTable(batch)
	for _, in := range batch {
		if err := s.prepareFor(ctx, in); err != nil {
			return result{}, err
		}
	}
	r, err := s.together(ctx, batch)
	if err == nil || !isData(err) {
		return r, err
	}
	return s.alone(ctx, batch)
}

// together applies the batch in one transaction. A statement that fails on data
// leaves no trace in SQLite, so the rest of the batch is not touched by it.
func (s *sqlite) together(ctx context.Context, batch []*incoming) (result, error) {
	var r result
	err := s.transact(ctx, func(tx *sql.Tx) error { return s.each(ctx, tx, batch, &r) })
	return r, err
}

// each applies the messages of a batch in a transaction.
func (s *sqlite) each(ctx context.Context, tx *sql.Tx, batch []*incoming, r *result) error {
	for _, in := range batch {
		v, err := s.one(ctx, tx, in)
		switch {
		case err == nil:
			r.count(v)
		case isData(err):
			r.isolated = true
			r.fail(in, err)
		default:
			return err
		}
	}
	return nil
}

// alone applies each message in a transaction of its own: for constraints that
// speak up at the commit.
func (s *sqlite) alone(ctx context.Context, batch []*incoming) (result, error) {
	all := result{isolated: true}
	for _, in := range batch {
		r, err := s.together(ctx, []*incoming{in})
		switch {
		case err == nil:
			all.add(r.tally)
			all.failures = append(all.failures, r.failures...)
		case isData(err):
			all.fail(in, in.fault(nil, nil, err))
		default:
			return result{}, err // what is committed already will be a duplicate
		}
	}
	return all, nil
}

func (s *sqlite) prepareFor(ctx context.Context, in *incoming) error {
	r := in.to
	errs := []error{s.prepare(ctx, task{r, taskStored, ""}, r.SQLiteStored)}
	if in.signal == event.Delete {
		errs = append(errs,
			s.prepare(ctx, task{r, taskDelete, ""}, r.SQLiteDelete),
			s.prepare(ctx, task{r, taskBury, ""}, r.SQLiteBury))
	} else {
		errs = append(errs,
			s.prepare(ctx, task{r, taskSave, in.absent}, func() string { return r.SQLiteSave(in.writes) }),
			s.prepare(ctx, task{r, taskRevive, ""}, r.SQLiteRevive))
	}
	return errors.Join(errs...)
}

// one applies one message. Its errors on data are a *DataError.
func (s *sqlite) one(ctx context.Context, tx *sql.Tx, in *incoming) (verdict, error) {
	key, err := sqliteKey(in)
	if err != nil {
		return verdict{}, err
	}
	have, err := s.stored(ctx, tx, in, key)
	if err != nil {
		return verdict{}, err
	}
	v, then := decide(have, in.change)
	switch {
	case v.outcome != applied:
	case then.presence == tombstone:
		err = s.bury(ctx, tx, in, key, then)
	default:
		err = s.save(ctx, tx, in, key, have)
	}
	return v, err
}

// sqliteKey returns the values of the key's columns.
func sqliteKey(in *incoming) ([]any, error) {
	var key []any
	for _, slot := range in.to.keySlots() {
		value, err := sqliteValue(in.to.column(slot), in.values[slot])
		if err != nil {
			return nil, in.fault(in.to.column(slot), in.values[slot], err)
		}
		key = append(key, value)
	}
	return key, nil
}

// stored reads what decide needs to know.
func (s *sqlite) stored(ctx context.Context, tx *sql.Tx, in *incoming, key []any) (state, error) {
	var have state
	var updated sql.NullString
	ctx, done := s.limit(ctx)
	defer done()
	err := s.in(ctx, tx, task{in.to, taskStored, ""}).QueryRowContext(ctx, append(key, in.key)...). //nolint:sqlclosecheck // cached; closed by database/sql with the transaction
													Scan(&have.presence, &have.Revision, &updated)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return state{}, nil
	case err != nil:
		return state{}, s.wrap(in, err)
	}
	// A time that is none, as someone may have put there, is older than all.
	have.Updated, _, _ = event.ParseTime(updated.String)
	return have, nil
}

func (s *sqlite) save(ctx context.Context, tx *sql.Tx, in *incoming, key []any, have state) error {
	args := make([]any, 1, len(in.to.Columns)+3)
	args[0] = key[0]
	for i := range in.to.Columns {
		if !in.writes(i) {
			continue
		}
		raw := in.values[slotColumn+i]
		value, err := sqliteValue(&in.to.Columns[i], raw)
		if err != nil {
			return in.fault(&in.to.Columns[i], raw, err)
		}
		args = append(args, value)
	}
	args = append(args, in.Revision, event.FormatTime(in.Updated))
	if err := s.exec(ctx, tx, in, task{in.to, taskSave, in.absent}, args...); err != nil {
		return err
	}
	if have.presence != tombstone {
		return nil
	}
	return s.exec(ctx, tx, in, task{in.to, taskRevive, ""}, in.key)
}

func (s *sqlite) bury(ctx context.Context, tx *sql.Tx, in *incoming, key []any, then state) error {
	// The row first: that is what a foreign key can refuse.
	if err := s.exec(ctx, tx, in, task{in.to, taskDelete, ""}, key...); err != nil {
		return err
	}
	return s.exec(ctx, tx, in, task{in.to, taskBury, ""}, in.key, then.Revision, event.FormatTime(then.Updated))
}

func (s *sqlite) exec(ctx context.Context, tx *sql.Tx, in *incoming, t task, args ...any) error {
	ctx, done := s.limit(ctx)
	defer done()
	_, err := s.in(ctx, tx, t).ExecContext(ctx, args...) //nolint:sqlclosecheck // cached; closed by database/sql with the transaction
	return s.wrap(in, err)
}

// wrap makes a *DataError of an error on data.
func (s *sqlite) wrap(in *incoming, err error) error {
	switch {
	case err == nil:
		return nil
	case !isData(err):
		return fmt.Errorf("consumer: apply to %s: %w", in.to.Table, err)
	}
	return in.fault(nil, nil, err)
}

// sqliteValue turns a JSON value into what SQLite is to store: a boolean into 1
// or 0, a number with all its digits, text as text, base64 into a blob where the
// column is one, and objects and arrays into their text.
func sqliteValue(column *dialect.Column, raw []byte) (any, error) {
	if event.IsNull(raw) {
		return nil, nil
	}
	switch raw[0] {
	case '"':
		return sqliteText(column, raw)
	case '{', '[':
		return string(raw), nil
	case 't':
		return int64(1), nil
	case 'f':
		return int64(0), nil
	}
	if n, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
		return n, nil
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || textual(column) || math.IsInf(f, 0) {
		return string(raw), nil //nolint:nilerr // what is no number is kept as it is
	}
	return f, nil
}

func sqliteText(column *dialect.Column, raw []byte) (any, error) {
	text, _ := event.Text(raw)
	switch column.Base {
	case "blob":
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf("not base64: %w", err)
		}
		return b, nil
	case "uuid": // one spelling, since SQLite compares text
		if canonical, ok := canonicalUUID(text); ok {
			return canonical, nil
		}
	}
	return text, nil
}

// textual reports whether a column has text affinity
// (https://www.sqlite.org/datatype3.html, section 3.1).
func textual(column *dialect.Column) bool {
	if strings.Contains(column.Base, "int") {
		return false
	}
	return strings.Contains(column.Base, "char") || strings.Contains(column.Base, "clob") || strings.Contains(column.Base, "text")
}
