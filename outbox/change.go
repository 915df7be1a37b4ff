package outbox

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// changed is a row as the statement that raised its revision has left it.
type changed struct {
	at       int             // which of the keys that were asked for
	key      string          // the key's text, as the database spells it
	pk       json.RawMessage // the key as an event has it
	columns  json.RawMessage // the key's columns, an object
	revision int64
	updated  string
	inside   bool            // it fulfils Where
	fresh    bool            // replicas were told nothing of the key, or that it is not there
	data     json.RawMessage // the Fields, an object; nil where nothing wants them
	tracked  json.RawMessage // the tracked columns, an object; nil without
	unfit    string          // a column whose value must not be sent
	twin     bool            // another of the keys stands for the row, too, and comes first
}

// change does an operation to rows and returns them in the order of the keys.
// What replicas are told, or must not be told any more, is remembered.
func (tx *Tx) change(ctx context.Context, p *plan, op operation, keys []string) (rows []changed, err error) {
	switch tx.ob.dialect {
	case Postgres:
		rows, err = tx.changePostgres(ctx, op, keys) // it remembers within the statement
	case MySQL:
		rows, err = tx.changeMySQL(ctx, p, op, keys)
	default:
		rows, err = tx.changeHere(ctx, p, op, keys)
	}
	if err != nil {
		return nil, err
	}
	for i := range rows {
		if rows[i].unfit != "" {
			return nil, &RowError{Entity: p.ID, Keys: []string{rows[i].key}, Column: rows[i].unfit, Err: errNonFinite}
		}
	}
	return rows, nil
}

var errNonFinite = errors.New("it is NaN or infinite, which JSON has no value for, and the entity does not send null in its place")

// changePostgres has the database encode the values.
func (tx *Tx) changePostgres(ctx context.Context, op operation, keys []string) ([]changed, error) {
	rows, err := tx.tx.QueryContext(ctx, op.sql.Change, Postgres.Texts(keys))
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	all := make([]changed, 0, len(keys))
	for rows.Next() {
		var row changed
		var unfit sql.NullString
		err := rows.Scan(&row.at, &row.key, (*[]byte)(&row.pk), (*[]byte)(&row.columns), &row.revision, &row.updated,
			&row.inside, &row.fresh, (*[]byte)(&row.data), (*[]byte)(&row.tracked), &unfit)
		if err != nil {
			return nil, err
		}
		row.at-- // an ordinality starts at 1
		row.unfit = unfit.String
		all = append(all, row)
	}
	return all, rows.Err()
}

// changeHere encodes the values here, for databases that cannot do it alike.
func (tx *Tx) changeHere(ctx context.Context, p *plan, op operation, keys []string) ([]changed, error) {
	all, err := tx.changeRows(ctx, p, op, keys)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b changed) int { return a.at - b.at })
	for i := range all {
		if !p.buries(op, &all[i]) {
			continue
		}
		if err := tx.bury(ctx, p, &all[i]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// buries reports whether a changed row is one that replicas do not have any more.
func (p *plan) buries(op operation, row *changed) bool {
	return op.signal == event.Delete || !row.inside && p.Leave != LeaveSilently
}

// changeRows reads the changed rows in any order.
func (tx *Tx) changeRows(ctx context.Context, p *plan, op operation, keys []string) ([]changed, error) {
	rows, err := tx.tx.QueryContext(ctx, op.sql.Change, tx.ob.dialect.Texts(keys), event.FormatTime(time.Now()))
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	scan := tx.ob.newRowScan(p, op, keys)
	all := make([]changed, 0, len(keys))
	for rows.Next() {
		row, err := scan.changed(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, row)
	}
	return all, rows.Err()
}

// rowScan reads rows whose values are encoded here.
type rowScan struct {
	*plan
	mysql bool
	at    map[string]int // the keys' places

	ord                   int // the key's place, as MySQL's statements return it
	keys, fields, tracked []any
	revision, updated     any
	inside, fresh         bool
}

func (ob *Outbox) newRowScan(p *plan, op operation, keys []string) *rowScan {
	s := &rowScan{
		plan: p, mysql: ob.dialect == MySQL,
		at: make(map[string]int, len(keys)), keys: make([]any, len(p.keys)),
	}
	for i, key := range keys {
		s.at[key] = i
	}
	if op.fields {
		s.fields = make([]any, len(p.fields))
	}
	if op.tracked {
		s.tracked = make([]any, len(p.tracked))
	}
	return s
}

func pointers(targets []any, values []any) []any {
	for i := range values {
		targets = append(targets, &values[i])
	}
	return targets
}

// targets are where a row's first columns go.
func (s *rowScan) targets() []any {
	if s.mysql {
		return pointers([]any{&s.ord}, s.keys)
	}
	return pointers(nil, s.keys)
}

// changed reads the key, cqrs_revision, cqrs_updated, inside, fresh, the fields
// and the tracked columns of a row.
func (s *rowScan) changed(rows *sql.Rows) (row changed, err error) {
	targets := append(s.targets(), &s.revision, &s.updated, &s.inside, &s.fresh)
	if err := rows.Scan(pointers(pointers(targets, s.fields), s.tracked)...); err != nil {
		return row, err
	}
	if err := s.key(&row); err != nil {
		return row, err
	}
	var ok bool
	if row.revision, ok = integer(s.revision); !ok {
		return row, &RowError{Entity: s.ID, Keys: []string{row.key}, Column: event.FieldRevision, Err: fmt.Errorf("it is %v, not an integer", s.revision)}
	}
	row.updated, row.inside, row.fresh = s.wireTime(), s.inside, s.fresh
	if row.data, err = s.object(&row, s.plan.fields, s.fields, true); err != nil {
		return row, err
	}
	row.tracked, err = s.object(&row, s.plan.tracked, s.tracked, false)
	return row, err
}

// trackedRow reads the key and the tracked columns of a row.
func (s *rowScan) trackedRow(rows *sql.Rows) (row changed, err error) {
	if err := rows.Scan(pointers(s.targets(), s.tracked)...); err != nil {
		return row, err
	}
	if err := s.key(&row); err != nil {
		return row, err
	}
	row.tracked, err = s.object(&row, s.plan.tracked, s.tracked, false)
	return row, err
}

// key fills in what a row's key is in its several forms.
func (s *rowScan) key(row *changed) (err error) {
	if row.columns, err = s.object(row, s.plan.keys, s.keys, false); err != nil {
		return err
	}
	texts := make([]string, 0, len(s.keys))
	for _, value := range event.Members(row.columns) {
		text, _ := event.Text(value)
		texts = append(texts, text)
		row.pk = value
	}
	row.key = texts[0]
	if len(texts) > 1 {
		row.key = textsJSON(texts)
		row.pk = event.AppendString(nil, row.key)
	}
	row.at = s.place(row.key)
	if s.mysql {
		row.at = s.ord
	}
	return nil
}

// place is where a key stands among those that were asked for. SQLite may have
// found it under another spelling: 1 for 1.0, or another case where the column's
// collation has none.
func (s *rowScan) place(key string) int {
	if at, has := s.at[key]; has || len(s.at) == 0 {
		return at
	}
	number, err := strconv.ParseFloat(key, 64)
	for asked, at := range s.at {
		n, other := strconv.ParseFloat(asked, 64)
		if strings.EqualFold(asked, key) || err == nil && other == nil && n == number {
			return at
		}
	}
	return 0
}

// object is columns with their values as a JSON object; nil without values.
func (s *rowScan) object(row *changed, columns []dialect.Column, values []any, strict bool) (json.RawMessage, error) {
	if len(values) == 0 {
		return nil, nil
	}
	data := []byte{'{'}
	for i, c := range columns {
		if i > 0 {
			data = append(data, ',')
		}
		data = append(event.AppendString(data, c.Name), ':')
		var err error
		if strict && s.NonFinite == NonFiniteError && (nonFinite(values[i]) || s.mysql && dialect.MySQLZeroTime(c, values[i])) {
			err = errNonFinite
		}
		if err == nil {
			data, err = s.appendValue(data, values[i], c)
		}
		if err != nil {
			return nil, &RowError{Entity: s.ID, Keys: []string{row.key}, Column: c.Name, Err: err}
		}
	}
	return append(data, '}'), nil
}

func (s *rowScan) appendValue(dst []byte, value any, c dialect.Column) ([]byte, error) {
	if s.mysql {
		return dialect.AppendMySQLValue(dst, value, c, s.Decimals == DecimalString)
	}
	if s.Decimals == DecimalString && (c.Base == "numeric" || strings.HasPrefix(c.Base, "decimal")) {
		switch value.(type) {
		case int64, float64:
			text, err := appendSQLiteValue(nil, value, c.Base)
			if err != nil || event.IsNull(text) {
				return append(dst, text...), err
			}
			return event.AppendString(dst, string(text)), nil
		}
	}
	return appendSQLiteValue(dst, value, c.Base)
}
