package consumer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// Check compares what is registered with the database's catalogue. It reports
// all faults at once, each with its remedy. Run does the same before it starts.
func (c *Consumer) Check(ctx context.Context) error {
	_, faults, err := c.load(ctx)
	return errors.Join(faults, err)
}

// load reads the catalogue and returns the replicas by CQRS ID, and what is
// wrong with them. err tells instead that the catalogue could not be read.
func (c *Consumer) load(ctx context.Context) (replicas map[string]*replica, faults, err error) {
	ctx, cancel := context.WithTimeout(ctx, catalogueTimeout)
	defer cancel()
	c.mu.Lock()
	entities, faults := c.chosen()
	c.mu.Unlock()

	for _, name := range ownTables(entities) {
		_, err = c.dialect.LoadTable(ctx, c.db, name)
		switch {
		case errors.Is(err, dialect.ErrNoTable):
			faults = errors.Join(faults, fmt.Errorf("consumer: %w: run `relay migrate up`, or migrations.Up", err))
		case err != nil:
			return nil, nil, fmt.Errorf("consumer: %w", err)
		}
	}
	replicas = make(map[string]*replica, len(entities))
	for i, e := range entities {
		if e.handler != nil {
			replicas[e.id] = &replica{entity: e, place: i}
			continue
		}
		table, err := c.dialect.LoadTable(ctx, c.db, e.table.Name)
		switch {
		case errors.Is(err, dialect.ErrNoTable):
			faults = errors.Join(faults, fmt.Errorf("consumer: entity %q: %w: create it, or correct the declared name of the table", e.id, err))
		case err != nil:
			return nil, nil, fmt.Errorf("consumer: entity %q: %w", e.id, err)
		default:
			r := newReplica(e, i, table)
			if c.dialect == dialect.MySQL {
				if r.Watched, err = dialect.MySQLInsertTrigger(ctx, c.db, r.Table); err != nil {
					return nil, nil, fmt.Errorf("consumer: entity %q: %w", e.id, err)
				}
			}
			replicas[e.id] = r
			faults = errors.Join(faults, c.compare(e, table))
		}
	}
	session, err := c.mysqlSession(ctx, replicas)
	twice, unread := c.refer(ctx, replicas)
	return replicas, errors.Join(faults, session, twice), errors.Join(err, unread)
}

// chosen returns the entities that this process consumes.
func (c *Consumer) chosen() (entities []*entity, faults error) {
	missing := slices.Clone(c.cfg.Entities)
	for _, e := range c.entities {
		if len(c.cfg.Entities) == 0 || slices.Contains(c.cfg.Entities, e.id) {
			entities = append(entities, e)
		}
		missing = slices.DeleteFunc(missing, func(id string) bool { return id == e.id })
	}
	for _, id := range missing {
		faults = errors.Join(faults, fmt.Errorf("consumer: Config.Entities has %.60q, which is not registered", id))
	}
	if len(c.entities) == 0 {
		faults = errors.Join(faults, errors.New("consumer: nothing is registered: call Table or Handle"))
	}
	return entities, faults
}

// ownTables are the tables of ours that the entities need.
func ownTables(entities []*entity) []string {
	names := []string{dialect.TombstoneTable}
	for _, e := range entities {
		if e.handler != nil && !e.handler.noDB {
			return append(names, dialect.InboxTable)
		}
	}
	return names
}

// mapping leads from wire fields to columns, without the version columns.
func mapping(e *entity, table *dialect.Table) map[string]string {
	columns := maps.Clone(e.table.Columns)
	if len(columns) == 0 {
		columns = make(map[string]string, len(table.Columns))
		for _, c := range table.Columns {
			if !c.Generated || slices.Contains(e.table.Keys, c.Name) {
				columns[c.Name] = c.Name
			}
		}
	}
	delete(columns, event.FieldRevision)
	delete(columns, event.FieldUpdated)
	return columns
}

// newReplica makes the plan for a table. Columns that the table lacks are left
// out; compare has reported them.
func newReplica(e *entity, place int, table *dialect.Table) *replica {
	r := &replica{
		entity: e, place: place, Replica: dialect.Replica{Table: e.table.Name},
		fields: map[string]int{event.FieldRevision: slotRevision, event.FieldUpdated: slotUpdated},
		wire:   []string{event.FieldRevision, event.FieldUpdated, ""},
	}
	columns := mapping(e, table)
	for _, field := range slices.Sorted(maps.Keys(columns)) {
		column := table.Column(columns[field])
		switch {
		case column == nil:
		case column.Name == e.table.Key:
			r.Key, r.wire[slotKey], r.fields[field] = *column, field, slotKey
		default:
			if slices.Contains(e.table.Keys, column.Name) {
				r.Rest = append(r.Rest, len(r.Columns))
			}
			r.fields[field] = r.slots()
			r.Columns = append(r.Columns, *column)
			r.wire = append(r.wire, field)
		}
	}
	r.Primary = slices.Equal(slices.Sorted(slices.Values(e.table.Keys)), slices.Sorted(slices.Values(primaryKey(table))))
	slices.SortFunc(r.Rest, func(a, b int) int { // the order of Keys
		return cmp.Compare(slices.Index(e.table.Keys, r.Columns[a].Name), slices.Index(e.table.Keys, r.Columns[b].Name))
	})
	return r
}

// compare reports what stands between an entity and its table.
func (c *Consumer) compare(e *entity, table *dialect.Table) error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("consumer: entity %q: table %s: "+format, append([]any{e.id, e.table.Name}, args...)...))
	}
	columns := mapping(e, table)
	written := make(map[string]bool, len(columns))
	for _, field := range slices.Sorted(maps.Keys(columns)) {
		name := columns[field]
		written[name] = true
		switch column := table.Column(name); {
		case column == nil:
			fault("field %q goes to column %s, which does not exist; there are %s", field, name, strings.Join(table.ColumnNames(), ", "))
		case column.Generated:
			fault("field %q goes to column %s, which the database generates: leave it out of Columns", field, name)
		}
	}
	for _, column := range table.Columns {
		if column.NotNull && !column.HasDefault && !column.Generated && !written[column.Name] && !isVersion(column.Name) {
			fault("column %s may not be null and has no default: map a field to it in Columns, or give it a default", column.Name)
		}
	}
	if len(e.table.Keys) > 1 {
		c.compareKeys(e, table, fault)
	} else {
		c.compareKey(e, table, written, fault)
	}
	if err := c.compareVersion(table); err != nil {
		fault("%w", err)
	}
	if c.dialect == dialect.MySQL {
		for _, err := range mysqlColumns(table, e.table.Keys, written) {
			fault("%w", err)
		}
	}
	return errors.Join(faults...)
}

// compareKey checks a key of one column.
func (c *Consumer) compareKey(e *entity, table *dialect.Table, written map[string]bool, fault func(format string, args ...any)) {
	switch key := table.Column(e.table.Key); {
	case key == nil && !written[e.table.Key]: // else reported above
		fault("there is no key column %s: make the key one of %s", e.table.Key, strings.Join(table.ColumnNames(), ", "))
	case key == nil:
	case !key.Unique:
		remedy := ""
		if primary := primaryKey(table); len(primary) > 1 {
			remedy = fmt.Sprintf(" or, if the master's key has them too, declare all columns of the primary key: key: [%s]", strings.Join(primary, ", "))
		}
		fault("key column %s is not unique by itself: CREATE UNIQUE INDEX %s ON %s (%s);%s", key.Name,
			c.dialect.QuoteColumn("lockstep_"+key.Name), c.dialect.Quote(table.Name), c.dialect.QuoteColumn(key.Name), remedy)
	case !key.NotNull:
		fault("key column %s may be null: declare it NOT NULL", key.Name)
	}
}

// primaryKey returns the names of the table's primary key columns.
func primaryKey(table *dialect.Table) (names []string) {
	for _, column := range table.Columns {
		if column.PrimaryKey > 0 {
			names = append(names, column.Name)
		}
	}
	return names
}

// compareKeys checks a composite key.
func (c *Consumer) compareKeys(e *entity, table *dialect.Table, fault func(format string, args ...any)) {
	primary := primaryKey(table)
	for _, name := range e.table.Keys {
		if table.Column(name) == nil {
			fault("there is no key column %s: make the key some of %s", name, strings.Join(table.ColumnNames(), ", "))
			return
		}
	}
	if !slices.Equal(slices.Sorted(slices.Values(primary)), slices.Sorted(slices.Values(e.table.Keys))) {
		fault("its primary key is (%s), and the declared key is (%s): make them the same", strings.Join(primary, ", "), strings.Join(e.table.Keys, ", "))
	}
}

// compareVersion checks the columns that order the events of a row.
func (c *Consumer) compareVersion(table *dialect.Table) error {
	revision, updated := table.Column(event.FieldRevision), table.Column(event.FieldUpdated)
	switch {
	case revision == nil && updated == nil:
		return fmt.Errorf("columns %s and %s are missing:\n%s", event.FieldRevision, event.FieldUpdated, c.dialect.VersionColumns(table.Name))
	case revision == nil:
		return fmt.Errorf("column %s is missing:\n%s", event.FieldRevision, c.dialect.AddColumn(table.Name, event.FieldRevision))
	case updated == nil:
		return fmt.Errorf("column %s is missing:\n%s", event.FieldUpdated, c.dialect.AddColumn(table.Name, event.FieldUpdated))
	}
	var faults []error
	for _, column := range []*dialect.Column{revision, updated} {
		if !column.NotNull {
			faults = append(faults, fmt.Errorf("column %s may be null: declare it NOT NULL", column.Name))
		}
	}
	if c.dialect == dialect.Postgres {
		if revision.Base != "bigint" && revision.Base != "integer" {
			faults = append(faults, fmt.Errorf("column %s is %s: make it bigint", revision.Name, revision.Type))
		}
		if !strings.HasPrefix(updated.Base, "timestamp") {
			faults = append(faults, fmt.Errorf("column %s is %s: make it timestamptz", updated.Name, updated.Type))
		}
	}
	return errors.Join(faults...)
}
