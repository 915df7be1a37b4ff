package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// plan is an entity together with what the catalogue says about its table.
type plan struct {
	Entity
	keys   []dialect.Column
	fields []dialect.Column
	// tracked are the columns whose previous values are sent.
	tracked []dialect.Column
	sql     dialect.EntitySQL
	table   *dialect.Table
	built   dialect.EntityTable
}

// plan returns the entity's plan, reading the catalogue through q the first time.
func (ob *Outbox) plan(ctx context.Context, q dialect.Querier, id string) (*plan, error) {
	e, known := ob.entities[id]
	if !known {
		return nil, ob.unknown(id)
	}
	ob.mu.Lock()
	p := ob.plans[id]
	ob.mu.Unlock()
	if p != nil {
		return p, nil
	}
	p, err := ob.newPlan(ctx, q, e)
	if err != nil {
		return nil, err
	}
	ob.mu.Lock()
	ob.plans[id] = p
	ob.mu.Unlock()
	return p, nil
}

// forget makes the next use of an entity read the catalogue again.
func (ob *Outbox) forget(id string) {
	ob.mu.Lock()
	defer ob.mu.Unlock()
	delete(ob.plans, id)
}

func (ob *Outbox) newPlan(ctx context.Context, q dialect.Querier, e Entity) (*plan, error) {
	table, err := ob.dialect.LoadTable(ctx, q, e.Table)
	switch {
	case errors.Is(err, dialect.ErrNoTable):
		return nil, fmt.Errorf("outbox: entity %s: %w: create it, or correct Table (a schema goes before a dot)", e.ID, err)
	case err != nil:
		return nil, fmt.Errorf("outbox: entity %s: %w", e.ID, err)
	}
	if err := ob.checkColumns(e, table); err != nil {
		return nil, err
	}
	if err := ob.checkUnique(ctx, q, e, table); err != nil {
		return nil, err
	}
	p := &plan{Entity: e, table: table}
	for _, c := range table.Columns {
		if len(e.Fields) == 0 && c.Name != event.FieldRevision && c.Name != event.FieldUpdated {
			p.fields = append(p.fields, c)
		}
	}
	p.fields = append(p.fields, columnsOf(table, e.Fields)...)
	p.keys = columnsOf(table, e.keyColumns())
	p.tracked = p.fields
	if !slices.Contains(e.Tracked, TrackAll) {
		p.tracked = columnsOf(table, e.Tracked)
	}
	p.built = dialect.EntityTable{
		CQRSID: e.ID, Table: e.Table, Keys: p.keys, Fields: p.fields, Tracked: p.tracked, TTL: int64(e.TTL / time.Second),
		Where: e.Where, LeaveSilently: e.Leave == LeaveSilently, Muted: e.Muted,
		DecimalText: e.Decimals == DecimalString, FiniteOnly: e.NonFinite == NonFiniteError,
		Correlated: ob.correlationID != nil, MaxPayload: ob.maxPayload, DeletedRows: e.DeleteData != nil,
	}
	faults := p.checkKeys(ob.dialect)
	if ob.dialect == MySQL {
		faults = errors.Join(faults, p.checkMySQL())
	}
	if faults != nil {
		return nil, faults
	}
	switch ob.dialect {
	case SQLite:
		p.sql = dialect.SQLiteEntity(p.built)
	case MySQL:
		p.sql = dialect.MySQLEntity(p.built)
	default:
		p.sql = dialect.PostgresEntity(p.built)
	}
	p.direct(ob)
	return p, p.checkWhere(ctx, q)
}

// checkKeys reports columns that cannot be a key's.
func (p *plan) checkKeys(d Dialect) error {
	var faults []error
	for _, c := range p.keys {
		if what := d.KeyFault(c); what != "" {
			faults = append(faults, fmt.Errorf("outbox: entity %s: table %s: column %s of the key %s", p.ID, p.Table, c.Name, what))
		}
	}
	return errors.Join(faults...)
}

func columnsOf(table *dialect.Table, names []string) (columns []dialect.Column) {
	for _, name := range names {
		columns = append(columns, *table.Column(name))
	}
	return columns
}

// direct drops the statements that record by themselves where a function has to
// see the rows first.
func (p *plan) direct(ob *Outbox) {
	if p.Muted {
		return
	}
	meta := ob.meta != nil || p.Meta != nil
	sync := meta || p.Serialize != nil || p.NonFinite == NonFiniteError
	left := p.Where != "" && p.Leave != LeaveSilently && p.DeleteData != nil
	if sync {
		p.sql.Sync.Record = ""
	}
	if sync || left || len(p.tracked) > 0 {
		p.sql.Save.Record, p.sql.SaveOne = "", ""
	}
	if meta || p.DeleteData != nil {
		p.sql.Delete.Record, p.sql.Deleting.Record = "", ""
	}
}

// checkWhere has the database read the condition.
func (p *plan) checkWhere(ctx context.Context, q dialect.Querier) error {
	if p.Where == "" {
		return nil
	}
	var n int64
	if err := q.QueryRowContext(ctx, p.sql.Check, false).Scan(&n); err != nil {
		return fmt.Errorf("outbox: entity %s: Where is no condition over the columns of table %s: correct it: %w", p.ID, p.Table, err)
	}
	return nil
}

// checkUnique finds out whether several columns make a key.
func (ob *Outbox) checkUnique(ctx context.Context, q dialect.Querier, e Entity, table *dialect.Table) error {
	keys := e.keyColumns()
	if len(keys) == 1 {
		return nil // the column says it
	}
	unique, err := ob.dialect.IsUnique(ctx, q, table.Name, keys)
	if err != nil {
		return fmt.Errorf("outbox: entity %s: %w", e.ID, err)
	}
	if !unique {
		return fmt.Errorf("outbox: entity %s: table %s may hold several rows with one %s: a key of several columns needs a primary key or a unique index over exactly these", e.ID, e.Table, strings.Join(keys, ", "))
	}
	return nil
}

func (ob *Outbox) checkColumns(e Entity, table *dialect.Table) error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("outbox: entity %s: table %s "+format, append([]any{e.ID, e.Table}, args...)...))
	}
	has := strings.Join(table.ColumnNames(), ", ")
	keys := e.keyColumns()
	for _, name := range keys {
		switch key := table.Column(name); {
		case key == nil:
			fault("has no column %q for the key: correct Key; it has %s", name, has)
		case len(keys) == 1 && !key.Unique:
			fault("may hold several rows with one %q: a key column needs a primary key or a unique index of its own", name)
		}
	}
	absent := func(field string, names []string) {
		for _, name := range names {
			if all := field == "Tracked" && name == TrackAll; !all && table.Column(name) == nil && !slices.Contains(keys, name) {
				fault("has no column %q: correct %s; it has %s", name, field, has)
			}
		}
	}
	absent("Fields", e.Fields)
	absent("Tracked", e.Tracked)
	revision, updated := table.Column(event.FieldRevision) != nil, table.Column(event.FieldUpdated) != nil
	switch {
	case !revision && !updated:
		fault("lacks %s and %s: %w: add them with\n%s", event.FieldRevision, event.FieldUpdated, ErrNotMigrated, ob.dialect.VersionColumns(e.Table))
	case !revision:
		fault("lacks %s: %w: add it with\n%s", event.FieldRevision, ErrNotMigrated, ob.dialect.AddColumn(e.Table, event.FieldRevision))
	case !updated:
		fault("lacks %s: %w: add it with\n%s", event.FieldUpdated, ErrNotMigrated, ob.dialect.AddColumn(e.Table, event.FieldUpdated))
	}
	return errors.Join(faults...)
}
