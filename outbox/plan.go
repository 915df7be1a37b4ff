package outbox

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// plan is an entity together with what the catalogue says about its table.
type plan struct {
	Entity
	fields []dialect.Column
	sql    dialect.EntitySQL
	table  *dialect.Table
	built  dialect.EntityTable
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
		return nil, fmt.Errorf("outbox: entity %s: table %s does not exist: create it, or correct Table (a schema goes before a dot)", e.ID, e.Table)
	case err != nil:
		return nil, fmt.Errorf("outbox: entity %s: %w", e.ID, err)
	}
	if err := ob.checkColumns(e, table); err != nil {
		return nil, err
	}
	p := &plan{Entity: e, table: table}
	for _, c := range table.Columns {
		if len(e.Fields) == 0 && c.Name != event.FieldRevision && c.Name != event.FieldUpdated {
			p.fields = append(p.fields, c)
		}
	}
	for _, f := range e.Fields {
		p.fields = append(p.fields, *table.Column(f))
	}
	p.built = dialect.EntityTable{
		CQRSID: e.ID, Table: e.Table, Key: *table.Column(e.Key), Fields: p.fields, TTL: int64(e.TTL / time.Second),
	}
	if ob.dialect == SQLite {
		p.sql = dialect.SQLiteEntity(p.built)
	} else {
		p.sql = dialect.PostgresEntity(p.built)
	}
	return p, nil
}

func (ob *Outbox) checkColumns(e Entity, table *dialect.Table) error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("outbox: entity %s: table %s "+format, append([]any{e.ID, e.Table}, args...)...))
	}
	has := strings.Join(table.ColumnNames(), ", ")
	switch key := table.Column(e.Key); {
	case key == nil:
		fault("has no column %q for the key: correct Key; it has %s", e.Key, has)
	case !key.Unique:
		fault("may hold several rows with one %q: a key column needs a primary key or a unique index of its own", e.Key)
	}
	for _, f := range e.Fields {
		if table.Column(f) == nil && f != e.Key {
			fault("has no column %q: correct Fields; it has %s", f, has)
		}
	}
	if table.Column(event.FieldRevision) == nil || table.Column(event.FieldUpdated) == nil {
		fault("lacks %s or %s: %w: add them with\n%s", event.FieldRevision, event.FieldUpdated, ErrNotMigrated, ob.dialect.VersionColumns(e.Table))
	}
	return errors.Join(faults...)
}
