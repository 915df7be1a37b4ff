// Package lookup turns the filters of django-cqrs, Django's field lookups as a
// JSON object, into SQL with parameters:
//
//	{"id__in": [1, 2], "created__year__gte": 2026, "name__icontains": "o'h"}
//
// All members have to hold. Names are looked up in the catalogue and values only
// ever become parameters, so nothing of a filter becomes SQL text.
package lookup

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// ErrFilter reports a filter that cannot be: not a JSON object, an unknown field
// or lookup, a value that the lookup does not take.
var ErrFilter = errors.New("bad filter")

// Condition is a filter as SQL.
type Condition struct {
	// SQL is a condition over the rows of the table. Of an empty filter it is one
	// that always holds.
	SQL string
	// Args are the values of its placeholders, in order.
	Args []any
}

// Table is what a filter speaks of.
type Table struct {
	*dialect.Table
	// Keys are the columns that the name pk stands for. Of several, pk is the JSON
	// array of their texts, and can be looked up by exact and in.
	Keys []dialect.Column
	// Alias is how the statement calls the table.
	Alias string
}

// ops are the lookups of a column, and of a part of a date or time.
var (
	ops = []string{
		"exact", "iexact", "in", "gt", "gte", "lt", "lte", "range", "isnull",
		"contains", "icontains", "startswith", "istartswith", "endswith", "iendswith",
	}
	parts   = []string{"year", "quarter", "month", "week", "day", "week_day", "hour", "minute", "second", "date", "time"}
	partOps = []string{"exact", "in", "gt", "gte", "lt", "lte", "range", "isnull"}
)

// Compile reads a filter for a table. The numbers of its placeholders start at
// first. Every fault is an [ErrFilter], and all are reported at once.
func Compile(d dialect.Name, t Table, filter string, first int) (Condition, error) {
	if !json.Valid([]byte(filter)) || !strings.HasPrefix(strings.TrimSpace(filter), "{") {
		return Condition{}, fmt.Errorf(`%w: %.60q is not a JSON object such as {"id__in": [1, 2]}`, ErrFilter, filter)
	}
	c := compiler{dialect: d, table: t, next: first}
	var faults []error
	for name, value := range event.Members([]byte(filter)) {
		if err := c.add(string(name), value); err != nil {
			faults = append(faults, fmt.Errorf("%w: %w", ErrFilter, err))
		}
	}
	if len(faults) > 0 {
		return Condition{}, errors.Join(faults...)
	}
	if len(c.terms) == 0 {
		c.terms = []string{"1 = 1"}
	}
	return Condition{SQL: strings.Join(c.terms, " AND "), Args: c.args}, nil
}

type compiler struct {
	dialect dialect.Name
	table   Table
	next    int
	terms   []string
	args    []any
}

// add adds one member of the filter.
func (c *compiler) add(name string, value []byte) error {
	if op, ok := strings.CutPrefix(name, "pk"); ok && len(c.table.Keys) > 1 && c.table.Column(name) == nil {
		return c.addKeys(name, op, value)
	}
	l, err := c.read(name)
	if err != nil {
		return err
	}
	var values []string
	switch l.Op {
	case "isnull":
		if s := string(value); s != "true" && s != "false" {
			return fmt.Errorf("%s: %.60s: use true or false", name, value)
		} else if s == "false" {
			l.Op = "notnull"
		}
	case "in":
		list, err := c.list(l, value)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		values = []string{c.dialect.Texts(list)}
	case "range":
		list, err := c.list(l, value)
		if err != nil || len(list) != 2 {
			return fmt.Errorf("%s: %.60s: use a list of the least and the largest value", name, value)
		}
		values = list
	case "exact", "iexact":
		if event.IsNull(value) {
			l.Op = "isnull"
			break
		}
		fallthrough
	default:
		text, err := c.text(l, value)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		values = []string{text}
	}
	c.emit(l, values)
	return nil
}

// addKeys adds a condition on a key of several columns.
func (c *compiler) addKeys(name, op string, value []byte) error {
	raw := []json.RawMessage{value}
	switch op {
	case "", "__exact":
	case "__in":
		if value[0] != '[' || json.Unmarshal(value, &raw) != nil {
			return fmt.Errorf("%s: %.60s: use a list", name, value)
		}
	default:
		return fmt.Errorf("%q: a key of several columns has no lookup %q: use exact or in", name, strings.TrimPrefix(op, "__"))
	}
	texts := make([]string, len(raw))
	for i, key := range raw {
		text, ok := event.Text(key)
		if !ok { // the array itself
			text = string(key)
		}
		var parts []string
		if json.Unmarshal([]byte(text), &parts) != nil || len(parts) != len(c.table.Keys) {
			return fmt.Errorf("%s: %.60s: use the JSON array of the key's %d columns as texts", name, key, len(c.table.Keys))
		}
		texts[i] = text
	}
	c.terms = append(c.terms, "("+c.dialect.AmongKeys(c.table.Keys, c.dialect.Placeholder(c.next))+")")
	c.args = append(c.args, c.dialect.Texts(texts))
	c.next++
	return nil
}

func (c *compiler) emit(l dialect.Lookup, values []string) {
	column := c.dialect.QuoteColumn(l.Column.Name)
	if c.table.Alias != "" {
		column = c.table.Alias + "." + column
	}
	var marks [2]string
	for i, v := range values {
		marks[i] = c.dialect.Placeholder(c.next)
		c.args = append(c.args, v)
		c.next++
	}
	c.terms = append(c.terms, "("+c.dialect.Condition(l, column, marks[0], marks[1])+")")
}

// read takes a member's name apart. Column names may hold two underscores
// themselves, so the longest name that is a column counts.
func (c *compiler) read(name string) (dialect.Lookup, error) {
	words := strings.Split(name, "__")
	for n := len(words); n > 0; n-- {
		field := strings.Join(words[:n], "__")
		column := c.table.Column(field)
		if column == nil && field == "pk" && len(c.table.Keys) == 1 {
			column = &c.table.Keys[0]
		}
		if column != nil {
			return readOps(name, *column, words[n:])
		}
	}
	lookup := ""
	if len(words) > 1 {
		lookup = fmt.Sprintf(" (lookup %q)", strings.Join(words[1:], "__"))
	}
	return dialect.Lookup{}, fmt.Errorf("%q: unknown field %q%s: table %s has %s",
		name, words[0], lookup, c.table.Name, strings.Join(c.table.ColumnNames(), ", "))
}

func readOps(name string, column dialect.Column, words []string) (dialect.Lookup, error) {
	l := dialect.Lookup{Column: column, Op: "exact"}
	known := ops
	if len(words) > 0 && slices.Contains(parts, words[0]) {
		l.Part, words, known = words[0], words[1:], partOps
		if !hasPart(column, l.Part) {
			return l, fmt.Errorf("%q: field %q is %s and has no lookup %q", name, column.Name, column.Type, l.Part)
		}
	}
	switch {
	case len(words) == 1 && slices.Contains(known, words[0]):
		l.Op = words[0]
	case len(words) > 0:
		return l, fmt.Errorf("%q: field %q has no lookup %q: use %s, or a part of a date or time: %s",
			name, column.Name, strings.Join(words, "__"), strings.Join(known, ", "), strings.Join(parts, ", "))
	}
	if l.Part == "" && l.Op != "isnull" && l.Op != "exact" && strings.HasSuffix(column.Base, "[]") && slices.Contains(partOps, l.Op) {
		return l, fmt.Errorf("%q: field %q is an array and has no lookup %q", name, column.Name, l.Op)
	}
	return l, nil
}

// hasPart reports whether a column may have such a part. SQLite's columns have no
// types to tell by.
func hasPart(column dialect.Column, part string) bool {
	date, time := column.Base == "date", strings.HasPrefix(column.Base, "time ") || column.Base == "time"
	isTimestamp := strings.HasPrefix(column.Base, "timestamp") || strings.HasPrefix(column.Base, "datetime")
	clock := part == "hour" || part == "minute" || part == "second" || part == "time"
	switch {
	case isTimestamp, column.Base == "text", column.Base == "":
		return column.Base != "text" || column.Type == "TEXT" // which is how SQLite declares times
	case date:
		return !clock
	case time:
		return clock
	}
	return false
}

// list reads a JSON array. Null matches nothing and is left out.
func (c *compiler) list(l dialect.Lookup, value []byte) ([]string, error) {
	var raw []json.RawMessage
	if value[0] != '[' || json.Unmarshal(value, &raw) != nil {
		return nil, fmt.Errorf("%.60s: use a list", value)
	}
	texts := make([]string, 0, len(raw))
	for _, one := range raw {
		if event.IsNull(one) {
			continue
		}
		text, err := c.value(l, one)
		if err != nil {
			return nil, err
		}
		texts = append(texts, text)
	}
	return texts, nil
}

func (c *compiler) text(l dialect.Lookup, value []byte) (string, error) {
	text, err := c.value(l, value)
	if err != nil {
		return "", err
	}
	if !slices.Contains(partOps, l.Op) {
		return c.dialect.Pattern(l.Op, text), nil
	}
	return text, nil
}

// value returns a value as the text that its column's input conversion reads.
func (c *compiler) value(l dialect.Lookup, value []byte) (string, error) {
	if value[0] == '[' || value[0] == '{' || strings.HasPrefix(l.Column.Base, "json") && l.Op == "exact" {
		if strings.HasPrefix(l.Column.Base, "json") {
			return string(value), nil
		}
		return "", fmt.Errorf("%.60s: use a text, a number or a boolean", value)
	}
	text, ok := event.Text(value)
	switch {
	case !ok:
		return "", errors.New("null: use isnull")
	case strings.Contains(text, "\x00"):
		return "", errors.New("a value may not hold the character U+0000")
	case value[0] == 't':
		return "1", nil
	case value[0] == 'f':
		return "0", nil
	case l.Part == "date" || l.Part == "time":
		return text, nil
	case l.Part != "":
		if _, err := strconv.Atoi(text); err != nil {
			return "", fmt.Errorf("%.60s: use a whole number", value)
		}
		return text, nil
	}
	if c.dialect == dialect.MySQL && slices.Contains(partOps, l.Op) {
		text, err := dialect.MySQLFilterValue(l.Column, text)
		if err != nil {
			return "", fmt.Errorf("%.60s: %w", value, err)
		}
		return text, nil
	}
	return c.moment(l.Column, text), nil
}

// moment writes a time with a zone as the database keeps or reads it: naive ones
// are UTC, as everywhere on the wire.
func (c *compiler) moment(column dialect.Column, text string) string {
	kept := column.Base == "timestamp with time zone"
	if c.dialect == dialect.SQLite {
		kept = column.Name == event.FieldUpdated || column.Base == "datetime" || strings.HasPrefix(column.Base, "timestamp")
	}
	if !kept {
		return text
	}
	t, _, err := event.ParseTime(text)
	if err != nil {
		return text
	}
	return event.FormatTime(t)
}
