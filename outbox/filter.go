package outbox

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/lockstep-go/lockstep/internal/dialect"
	"github.com/lockstep-go/lockstep/internal/lookup"
)

// Filter selects rows of an entity by django-cqrs's filters: Django's field
// lookups as a JSON object, all of which have to hold.
//
//	{"id__in": [1, 2], "name__istartswith": "a", "created__year__gte": 2026}
//
// Lookups are exact (also when none is named), iexact, in, gt, gte, lt, lte,
// range, isnull, contains, icontains, startswith, istartswith, endswith and
// iendswith; the parts of a date or time, before one of these, are year, quarter,
// month, week, day, week_day, hour, minute, second, date and time. Times are in
// UTC. pk stands for the key; of several columns it is their JSON array, for exact
// and in. Any column of the table may be named, sent or not.
//
// The zero value selects nothing: all rows are asked for by [All].
type Filter string

// All selects every row.
const All Filter = "{}"

// ErrFilter reports a filter that is not a JSON object, or names a field or a
// lookup that there is not.
var ErrFilter = lookup.ErrFilter

// Count returns how many rows of an entity a filter selects.
func (ob *Outbox) Count(ctx context.Context, db *sql.DB, entity string, filter Filter) (int64, error) {
	s, err := ob.scan(ctx, db, entity, filter)
	if err != nil || s == nil {
		return 0, err
	}
	var n int64
	err = s.dialect.Over(db).QueryRowContext(ctx, s.sql(false).Count, append([]any{nil, nil}, s.args...)...).Scan(&n)
	if err != nil {
		return 0, s.fault("count", err)
	}
	return n, nil
}

// scan is an entity's rows that a filter selects.
type scan struct {
	*plan
	ob        *Outbox
	dialect   Dialect
	condition string
	args      []any
}

// scan returns nil for a filter that selects nothing.
func (ob *Outbox) scan(ctx context.Context, q dialect.Querier, entity string, filter Filter) (*scan, error) {
	p, err := ob.plan(ctx, q, entity)
	if err != nil || filter == "" {
		return nil, err
	}
	table := lookup.Table{Table: p.table, Keys: p.keys, Alias: "t"}
	c, err := lookup.Compile(ob.dialect, table, string(filter), dialect.ScanParameter)
	if err != nil {
		return nil, fmt.Errorf("outbox: entity %s: %w", entity, err)
	}
	return &scan{plan: p, ob: ob, dialect: ob.dialect, condition: c.SQL, args: c.Args}, nil
}

func (s *scan) sql(from bool) dialect.ScanSQL {
	return s.dialect.ScanSQL(dialect.Scan{EntityTable: s.built, Condition: s.condition, From: from})
}

// page returns a page's parameters: its size, the key to start behind ("": none)
// and the filter's values.
func (s *scan) page(size int, from *string) []any {
	args := make([]any, 0, 2+len(s.args))
	args = append(args, size, nil)
	if from != nil {
		args[1] = *from
	}
	return append(args, s.args...)
}

func (s *scan) fault(what string, err error) error {
	if dialect.IsBadValue(err) {
		err = fmt.Errorf("%w: a value does not fit its field: %w", ErrFilter, err)
	}
	return fmt.Errorf("outbox: %s %s: %w", what, s.ID, withRemedy(err))
}
