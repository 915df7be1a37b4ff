package outbox

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"iter"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// Row is the current state of a row, as its events carry it.
type Row struct {
	// Key is the key's text, and PK the key as an event has it: a JSON number or
	// string.
	Key string
	PK  json.RawMessage
	// Data is what an event would have as its data, without line breaks.
	Data json.RawMessage
}

// Version is a row's key and revision.
type Version struct {
	// Key is the key's text, and PK the key as an event has it: a JSON number or
	// string.
	Key string
	PK  json.RawMessage
	// Revision is 0 for a row that no event was recorded of yet.
	Revision int64
}

// Rows reads the rows that the filter selects, in key order, starting behind the
// key from ("": at the beginning). It reads page by page, so it holds neither a
// snapshot nor memory for long, and a row that is changed meanwhile appears in
// one of its states. After an error nothing follows.
func (ob *Outbox) Rows(ctx context.Context, db *sql.DB, entity string, filter Filter, from string) iter.Seq2[Row, error] {
	return read(ctx, ob, db, entity, filter, from, (*scan).rows, func(r Row) string { return r.Key })
}

// Versions is [Outbox.Rows] for what tells whether a replica has the same.
func (ob *Outbox) Versions(ctx context.Context, db *sql.DB, entity string, filter Filter, from string) iter.Seq2[Version, error] {
	return read(ctx, ob, db, entity, filter, from, (*scan).versions, func(v Version) string { return v.Key })
}

// pageSize is how many rows are read by one statement.
const pageSize = 2000

// pager reads one page and hands on each row until it is told to stop.
type pager[T any] func(s *scan, ctx context.Context, db *sql.DB, from *string, yield func(T) bool) (rows int, more bool, err error)

func read[T any](ctx context.Context, ob *Outbox, db *sql.DB, entity string, filter Filter, from string, page pager[T], key func(T) string) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		s, err := ob.scan(ctx, db, entity, filter)
		if err != nil {
			yield(none, err)
		}
		if s == nil {
			return
		}
		var behind *string
		if from != "" {
			behind = &from
		}
		for {
			var last string
			n, more, err := page(s, ctx, db, behind, func(one T) bool {
				last = key(one)
				return yield(one, nil)
			})
			if err != nil {
				yield(none, s.fault("read", err))
				return
			}
			if n < pageSize || !more {
				return
			}
			behind = &last
		}
	}
}

func (s *scan) versions(ctx context.Context, db *sql.DB, from *string, yield func(Version) bool) (int, bool, error) {
	return s.each(ctx, db, s.sql(from != nil).Versions, from, func(rows *sql.Rows) (bool, error) {
		var v Version
		if s.dialect == MySQL {
			row, err := s.rowScan(operation{}).changed(rows)
			return err == nil && yield(Version{Key: row.key, PK: row.pk, Revision: row.revision}), err
		}
		var pk any
		if err := rows.Scan(&v.Key, &pk, &v.Revision); err != nil {
			return false, err
		}
		var err error
		v.PK, err = s.pk(pk)
		return err == nil && yield(v), err
	})
}

// pk returns a key as an event has it.
func (s *scan) pk(value any) (json.RawMessage, error) {
	if s.dialect == SQLite {
		return appendSQLiteValue(nil, value, "")
	}
	switch text := value.(type) {
	case []byte:
		return text, nil
	case string:
		return json.RawMessage(text), nil
	}
	return nil, ErrKey
}

func (s *scan) rows(ctx context.Context, db *sql.DB, from *string, yield func(Row) bool) (int, bool, error) {
	if s.Serialize != nil {
		return s.serialized(ctx, db, from, yield)
	}
	return s.each(ctx, db, s.sql(from != nil).Rows, from, func(rows *sql.Rows) (bool, error) {
		row, err := s.row(rows)
		return err == nil && yield(row), err
	})
}

// serialized is rows for an entity whose data a function makes: it gets a page
// at once, and a transaction.
func (s *scan) serialized(ctx context.Context, db *sql.DB, from *string, yield func(Row) bool) (n int, more bool, err error) {
	defer func() { err = dialect.WithCause(ctx, err) }()
	var keys []string
	n, _, err = s.versions(ctx, db, from, func(v Version) bool {
		keys = append(keys, v.Key)
		return true
	})
	if err != nil || n == 0 {
		return n, true, err
	}
	sqlTx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return 0, false, err
	}
	defer func() { _ = sqlTx.Rollback() }() // nothing was written
	tx := s.ob.Wrap(sqlTx)
	rows, err := tx.change(ctx, s.plan, s.syncing(), keys)
	if err != nil {
		return 0, false, err
	}
	made, err := tx.represent(ctx, s.plan, s.syncing(), rows)
	if err != nil {
		return 0, false, err
	}
	for i := range rows {
		data := s.data(&rows[i], event.Sync, made[rows[i].key])
		if !yield(Row{Key: rows[i].key, PK: rows[i].pk, Data: oneLine(data)}) {
			return n, false, nil
		}
	}
	return n, true, nil
}

func (s *scan) rowScan(op operation) *rowScan {
	return s.ob.newRowScan(s.plan, op, nil)
}

func (s *scan) row(rows *sql.Rows) (Row, error) {
	if s.dialect == Postgres {
		var r Row
		err := rows.Scan(&r.Key, (*[]byte)(&r.PK), (*[]byte)(&r.Data))
		r.Data = oneLine(r.Data)
		return r, err
	}
	row, err := s.rowScan(s.syncing()).changed(rows)
	if err != nil {
		return Row{}, err
	}
	return Row{Key: row.key, PK: row.pk, Data: oneLine(s.data(&row, event.Sync, nil))}, nil
}

// oneLine takes line breaks out of JSON, which a json column may hold.
func oneLine(data json.RawMessage) json.RawMessage {
	if bytes.IndexByte(data, '\n') < 0 {
		return data
	}
	var b bytes.Buffer
	if json.Compact(&b, data) != nil {
		return data
	}
	return b.Bytes()
}

// each reads a page. It reports how many rows there were, and false for more
// when it was told to stop.
func (s *scan) each(ctx context.Context, db *sql.DB, query string, from *string, one func(*sql.Rows) (more bool, err error)) (n int, more bool, err error) {
	rows, err := s.dialect.Over(db).QueryContext(ctx, query, s.page(pageSize, from)...)
	if err != nil {
		return 0, false, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if more, err := one(rows); err != nil || !more {
			return n, false, err
		}
		n++
	}
	return n, true, rows.Err()
}
