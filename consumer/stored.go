package consumer

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// Stored is a row of a replica table.
type Stored struct {
	// Key is the key's text, and PK the key as JSON: a number or a string.
	Key string
	PK  json.RawMessage
	// Revision is the row's.
	Revision int64
	// Data has the mapped columns under the names of their wire fields, in the
	// forms of the wire as far as this database can tell them. Only
	// [Reader.FindRows] fills it in.
	Data json.RawMessage
}

// Reader reads the table that follows an entity. It may be used from several
// goroutines.
type Reader struct {
	c   *Consumer
	to  *replica
	sql dialect.ReplicaScan
}

// Reader checks the entity's table and returns a reader of it.
func (c *Consumer) Reader(ctx context.Context, cqrsID string) (*Reader, error) {
	to, err := c.tableOf(ctx, cqrsID, "compare")
	if err != nil {
		return nil, err
	}
	return &Reader{c: c, to: to, sql: c.dialect.ReplicaScan(to.Table, to.keyColumns(), to.Columns, to.wire[slotColumn:])}, nil
}

// tableOf checks the table that follows an entity, for what is to be done with it.
func (c *Consumer) tableOf(ctx context.Context, cqrsID, what string) (*replica, error) {
	replicas, faults, err := c.load(ctx)
	if err := errors.Join(faults, err); err != nil {
		return nil, err
	}
	switch to := replicas[cqrsID]; {
	case to == nil:
		return nil, fmt.Errorf("%w %q: declare the table that follows it", ErrUnknownEntity, cqrsID)
	case to.entity.handler != nil:
		return nil, fmt.Errorf("consumer: %s has a handler and no table: there is nothing to %s", cqrsID, what)
	default:
		return to, nil
	}
}

// readPage is how many rows one statement reads.
const readPage = 5000

// Count returns how many rows the table has.
func (r *Reader) Count(ctx context.Context) (n int64, err error) {
	if err := r.c.db.QueryRowContext(ctx, r.sql.Count).Scan(&n); err != nil {
		return 0, fmt.Errorf("consumer: count %s: %w", r.to.Table, err)
	}
	return n, nil
}

// All reads the rows in key order, page by page. After an error nothing follows.
func (r *Reader) All(ctx context.Context) iter.Seq2[Stored, error] {
	return func(yield func(Stored, error) bool) {
		query, args := r.sql.First, []any{readPage}
		for {
			page, err := r.query(ctx, query, args...)
			if err != nil {
				yield(Stored{}, err)
				return
			}
			for _, one := range page {
				if !yield(one, nil) {
					return
				}
			}
			if len(page) < readPage {
				return
			}
			query, args = r.sql.Next, []any{readPage, r.text(page[len(page)-1].PK)}
		}
	}
}

// Find returns the rows of the keys, given as JSON, that are there, by the
// [Reader.Key] of the keys.
func (r *Reader) Find(ctx context.Context, keys []json.RawMessage) (map[string]Stored, error) {
	return r.find(ctx, r.sql.Find, keys)
}

// FindRows is [Reader.Find] with the rows' data.
func (r *Reader) FindRows(ctx context.Context, keys []json.RawMessage) (map[string]Stored, error) {
	return r.find(ctx, r.sql.FindRows, keys)
}

func (r *Reader) find(ctx context.Context, query string, keys []json.RawMessage) (map[string]Stored, error) {
	texts := make([]string, len(keys))
	for i, key := range keys {
		texts[i] = r.text(key)
	}
	found, err := r.query(ctx, query, r.c.dialect.Texts(texts))
	if err != nil {
		return nil, err
	}
	stored := make(map[string]Stored, len(found))
	for _, one := range found {
		stored[r.Key(one.PK)] = one
	}
	return stored, nil
}

// Key returns one text for all spellings of a key as JSON, also those of another
// database or of a column of another scale. A key of several columns is the JSON array
// of their texts, as a string.
func (r *Reader) Key(key json.RawMessage) string {
	return r.keyText(key, func(column *dialect.Column, raw []byte) []byte {
		text, ok := event.Text(raw)
		if !ok {
			return raw
		}
		return event.AppendString(nil, oneSpelling(column, text))
	})
}

// text is the text of a key for the database.
func (r *Reader) text(key json.RawMessage) string {
	return r.keyText(key, func(column *dialect.Column, raw []byte) []byte {
		text, _ := event.Text(raw)
		if r.c.dialect != dialect.Postgres && isBool(text) && boolean(column) {
			return strconv.AppendInt(nil, boolText(text), 10)
		}
		return raw
	})
}

func (r *Reader) keyText(key json.RawMessage, spell func(column *dialect.Column, raw []byte) []byte) string {
	values, err := r.to.keyValues(key)
	if err != nil { // no row has it
		text, _ := event.Text(key)
		return text
	}
	for _, slot := range r.to.keySlots() {
		values[slot] = spell(r.to.column(slot), values[slot])
	}
	return r.to.keyOf(values)
}

// boolean reports whether a column keeps truth values, as numbers on MySQL and SQLite.
func boolean(column *dialect.Column) bool {
	return strings.HasPrefix(column.Base, "bool") || column.IsTinyBool()
}

// oneSpelling returns one text for what databases spell in several ways.
func oneSpelling(column *dialect.Column, text string) string {
	switch base := column.Base; {
	case base == "date", strings.HasPrefix(base, "timestamp"), strings.HasPrefix(base, "datetime"):
		if at, _, err := event.ParseTime(text); err == nil {
			return event.FormatTime(at.UTC())
		}
	case base == "numeric", base == "decimal":
		if f, err := strconv.ParseFloat(text, 64); err == nil && strings.ContainsAny(text, "eE") {
			text = strconv.FormatFloat(f, 'f', -1, 64)
		}
		if strings.Contains(text, ".") {
			return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
		}
	case base == "real", strings.HasPrefix(base, "double"), strings.HasPrefix(base, "float"):
		if f, err := strconv.ParseFloat(text, 64); err == nil {
			return strconv.FormatFloat(f, 'g', -1, 64)
		}
	case boolean(column):
		if isBool(text) {
			return strconv.FormatInt(boolText(text), 10)
		}
	case base == "character":
		return strings.TrimRight(text, " ")
	}
	return text
}

// keyValues puts a key as JSON into the slots of its columns.
func (r *replica) keyValues(key json.RawMessage) ([][]byte, error) {
	values := make([][]byte, r.slots())
	if len(r.Rest) == 0 {
		values[slotKey] = key
		return values, nil
	}
	text, _ := event.Text(key)
	var parts []json.RawMessage
	slots := r.keySlots()
	if json.Unmarshal([]byte(text), &parts) != nil || len(parts) != len(slots) {
		return nil, fmt.Errorf("key %.60s is not the JSON array of the key's %d columns", key, len(slots))
	}
	for i, slot := range slots {
		values[slot] = parts[i]
	}
	return values, nil
}

func (r *replica) keyColumns() []dialect.Column {
	slots := r.keySlots()
	columns := make([]dialect.Column, len(slots))
	for i, slot := range slots {
		columns[i] = *r.column(slot)
	}
	return columns
}

func (r *Reader) query(ctx context.Context, query string, args ...any) ([]Stored, error) {
	rows, err := r.c.dialect.Over(r.c.db).QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("consumer: read %s: %w", r.to.Table, err)
	}
	defer func() { _ = rows.Close() }()
	names, err := rows.Columns()
	if err != nil {
		return nil, fmt.Errorf("consumer: read %s: %w", r.to.Table, err)
	}
	page := make([]Stored, 0, 64)
	for rows.Next() {
		one, err := r.scan(rows, len(names))
		if err != nil {
			return nil, fmt.Errorf("consumer: read %s: %w", r.to.Table, err)
		}
		page = append(page, one)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("consumer: read %s: %w", r.to.Table, err)
	}
	return page, nil
}

// scan reads a row of key, key as JSON, revision, and perhaps data: one JSON
// object, or the columns where the database cannot make one.
func (r *Reader) scan(rows *sql.Rows, columns int) (Stored, error) {
	if r.c.dialect == dialect.MySQL {
		return r.scanMySQL(rows, columns)
	}
	var one Stored
	values := make([]any, columns-2)
	targets := []any{&one.Key, &values[0], &one.Revision}
	for i := range values[1:] {
		targets = append(targets, &values[i+1])
	}
	if err := rows.Scan(targets...); err != nil {
		return one, err
	}
	if r.c.dialect == dialect.SQLite {
		one.PK = appendStored(nil, values[0])
		one.Data = r.data(values[1:])
		return one, nil
	}
	one.PK = asJSON(values[0])
	if len(values) > 1 {
		one.Data = asJSON(values[1])
	}
	return one, nil
}

// scanMySQL reads a row of the key's columns, revision, and perhaps the columns.
func (r *Reader) scanMySQL(rows *sql.Rows, columns int) (one Stored, err error) {
	values, targets := make([]any, columns), make([]any, columns)
	for i := range values {
		targets[i] = &values[i]
	}
	slots := r.to.keySlots()
	targets[len(slots)] = &one.Revision
	if err := rows.Scan(targets...); err != nil {
		return one, err
	}
	key := make([][]byte, r.to.slots())
	for i, slot := range slots {
		if key[slot], err = dialect.AppendMySQLValue(nil, values[i], *r.to.column(slot), false); err != nil {
			return one, err
		}
	}
	one.Key, one.PK = r.to.keyOf(key), key[slotKey]
	if len(slots) > 1 {
		one.PK = event.AppendString(nil, one.Key)
	}
	values = values[len(slots)+1:]
	if len(values) == 0 || len(r.to.Columns) == 0 {
		return one, nil
	}
	data := []byte{'{'}
	for i := range r.to.Columns {
		if i > 0 {
			data = append(data, ',')
		}
		data = append(event.AppendString(data, r.to.wire[slotColumn+i]), ':')
		if data, err = dialect.AppendMySQLValue(data, values[i], r.to.Columns[i], false); err != nil {
			return one, err
		}
	}
	one.Data = append(data, '}')
	return one, nil
}

func asJSON(value any) json.RawMessage {
	switch v := value.(type) {
	case string:
		return json.RawMessage(v)
	case []byte:
		return v
	}
	return nil
}

// data makes a JSON object of columns.
func (r *Reader) data(values []any) json.RawMessage {
	if len(values) == 0 || len(r.to.Columns) == 0 {
		return nil
	}
	b := []byte{'{'}
	for i, value := range values {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(event.AppendString(b, r.to.wire[slotColumn+i]), ':')
		b = appendStored(b, value)
	}
	return append(b, '}')
}

// appendStored appends what SQLite has stored as JSON.
func appendStored(b []byte, value any) []byte {
	switch v := value.(type) {
	case int64:
		return strconv.AppendInt(b, v, 10)
	case bool:
		return strconv.AppendBool(b, v)
	case float64:
		if math.IsInf(v, 0) || math.IsNaN(v) {
			return append(b, "null"...)
		}
		return strconv.AppendFloat(b, v, 'g', -1, 64)
	case string:
		return event.AppendString(b, v)
	case []byte:
		return event.AppendString(b, base64.StdEncoding.EncodeToString(v))
	case time.Time:
		return event.AppendString(b, event.FormatTime(v))
	}
	return append(b, "null"...)
}
