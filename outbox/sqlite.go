package outbox

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// recordSQLite changes the rows, reads them back and inserts their events. It
// returns the ids of the events it inserted.
func (tx *Tx) recordSQLite(ctx context.Context, p *plan, statement string, deleted bool, keys, ids []string) (map[string]bool, error) {
	changed, err := tx.changeSQLite(ctx, p, statement, deleted, keys)
	if err != nil {
		return nil, err
	}
	insert, err := tx.tx.PrepareContext(ctx, dialect.SQLiteInsertOutbox)
	if err != nil {
		return nil, err
	}
	defer func() { _ = insert.Close() }()
	sent := make(map[string]bool, len(keys))
	for i, key := range keys {
		row := changed[key]
		if row == nil {
			continue
		}
		metadata := append(event.AppendString([]byte("{"), event.HeaderEventID), ':')
		metadata = append(event.AppendString(metadata, ids[i]), '}')
		body := row.event.AppendJSON(nil)
		if _, err := insert.ExecContext(ctx, event.Topic(p.ID), key, body, string(metadata)); err != nil {
			return nil, err
		}
		sent[ids[i]] = true
		if !deleted {
			continue
		}
		if _, err := tx.tx.ExecContext(ctx, dialect.SQLiteBury, p.ID, key, row.revision, row.updated); err != nil {
			return nil, err
		}
	}
	return sent, nil
}

type changedRow struct {
	event    event.Event
	revision int64
	updated  string
}

func (tx *Tx) changeSQLite(ctx context.Context, p *plan, statement string, deleted bool, keys []string) (map[string]*changedRow, error) {
	now := time.Now()
	rows, err := tx.tx.QueryContext(ctx, statement, SQLite.Texts(keys), event.FormatTime(now))
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	changed := make(map[string]*changedRow, len(keys))
	for rows.Next() {
		var key, revision, updated any
		fields := make([]any, len(p.fields))
		targets := []any{&key, &revision, &updated}
		if !deleted {
			for i := range fields {
				targets = append(targets, &fields[i])
			}
		}
		if err := rows.Scan(targets...); err != nil {
			return nil, err
		}
		text, row, err := p.encodeSQLite(key, revision, updated, fields, deleted)
		if err != nil {
			return nil, err
		}
		if p.TTL > 0 {
			row.event.Expires = now.Add(p.TTL)
		}
		changed[text] = row
	}
	return changed, rows.Err()
}

// encodeSQLite makes the event of one changed row.
func (p *plan) encodeSQLite(key, revision, updated any, fields []any, deleted bool) (string, *changedRow, error) {
	row := &changedRow{event: event.Event{Signal: event.Save, CQRSID: p.ID}}
	number, ok := revision.(int64)
	if !ok {
		return "", nil, fmt.Errorf("%s is %v, not an integer", event.FieldRevision, revision)
	}
	row.revision = number
	row.updated = sqliteTime(updated)
	pk, err := appendSQLiteValue(nil, key, "")
	if err != nil {
		return "", nil, err
	}
	text, _ := event.Text(pk)
	data := []byte{'{'}
	member := func(name string) {
		if len(data) > 1 {
			data = append(data, ',')
		}
		data = append(event.AppendString(data, name), ':')
	}
	if deleted {
		row.event.Signal = event.Delete
		member(event.FieldDeletedKey)
		data = append(data, pk...)
		if p.Key != event.FieldDeletedKey {
			member(p.Key)
			data = append(data, pk...)
		}
	} else {
		for i, c := range p.fields {
			member(c.Name)
			if data, err = appendSQLiteValue(data, fields[i], c.Base); err != nil {
				return "", nil, fmt.Errorf("column %s of key %s: %w", c.Name, text, err)
			}
		}
	}
	member(event.FieldRevision)
	data = strconv.AppendInt(data, row.revision, 10)
	member(event.FieldUpdated)
	data = append(event.AppendString(data, row.updated), '}')
	row.event.Data, row.event.Key = data, pk
	return text, row, nil
}

// appendSQLiteValue appends a value as JSON. SQLite has no types of columns, only
// declarations, so the declared type tells a boolean from an integer, JSON and
// times from text.
func appendSQLiteValue(dst []byte, value any, declared string) ([]byte, error) {
	switch v := value.(type) {
	case nil:
		return append(dst, "null"...), nil
	case int64:
		if strings.Contains(declared, "bool") {
			return strconv.AppendBool(dst, v != 0), nil
		}
		return strconv.AppendInt(dst, v, 10), nil
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return append(dst, "null"...), nil
		}
		return strconv.AppendFloat(dst, v, 'g', -1, 64), nil
	case bool:
		return strconv.AppendBool(dst, v), nil
	case time.Time:
		if declared == "date" {
			return event.AppendString(dst, v.Format(time.DateOnly)), nil
		}
		return event.AppendString(dst, event.FormatTime(v)), nil
	case []byte:
		if declared == "json" || declared == "jsonb" {
			return appendSQLiteValue(dst, string(v), declared)
		}
		return event.AppendString(dst, base64.StdEncoding.EncodeToString(v)), nil
	case string:
		if declared == "json" && json.Valid([]byte(v)) {
			return append(dst, v...), nil
		}
		return event.AppendString(dst, v), nil
	}
	return nil, fmt.Errorf("%T cannot be sent", value)
}

func sqliteTime(value any) string {
	if t, ok := value.(time.Time); ok { // a column declared as DATETIME
		return event.FormatTime(t)
	}
	return fmt.Sprint(value)
}
