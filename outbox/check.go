package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// Check compares every entity with the database's catalogue, looks for the
// outbox's own tables, and for what else the first write would fail of: version
// columns without a default and, on PostgreSQL, missing rights. It reports all
// faults at once, each with its remedy. Call it when the service starts; without it
// the same faults come up when an entity is first used.
func (ob *Outbox) Check(ctx context.Context, db *sql.DB) error {
	if err := ob.CheckTables(ctx, db); err != nil {
		return err
	}
	var faults []error
	for _, id := range ob.names {
		p, err := ob.plan(ctx, db, id)
		if err != nil {
			return err
		}
		faults = append(faults, ob.checkDefaults(p))
	}
	return errors.Join(append(faults, ob.checkRights(ctx, db))...)
}

// CheckTables is the part of [Outbox.Check] for who reads the entities and does not
// write them, such as a relay or a service in another language.
func (ob *Outbox) CheckTables(ctx context.Context, db *sql.DB) error {
	var faults []error
	for _, table := range []string{"outbox", "outbox_tombstones"} {
		if _, err := ob.dialect.LoadTable(ctx, db, table); err != nil {
			faults = append(faults, fmt.Errorf("outbox: %w", withRemedy(err)))
			if !errors.Is(err, dialect.ErrNoTable) {
				return errors.Join(faults...) // the database is away; one report is enough
			}
		}
	}
	if len(faults) == 0 {
		if err := ob.checkSession(ctx, db); err != nil {
			faults = append(faults, err)
		}
	}
	for _, id := range ob.names {
		if _, err := ob.plan(ctx, db, id); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// checkDefaults looks at what an INSERT that does not know of Lockstep leaves to the
// database. Tables that Django made have the version columns without defaults.
func (ob *Outbox) checkDefaults(p *plan) error {
	var lacking []string
	for _, name := range []string{event.FieldRevision, event.FieldUpdated} {
		if c := p.table.Column(name); !c.HasDefault && !c.Generated {
			lacking = append(lacking, name)
		}
	}
	if len(lacking) == 0 {
		return nil
	}
	return fmt.Errorf("outbox: entity %s: table %s has no default for %s, so a new row would have none or be refused: %s",
		p.ID, p.Table, strings.Join(lacking, " and "), ob.dialect.VersionDefaults(p.Table))
}

// checkRights asks PostgreSQL whether this role may do what recording an event takes.
func (ob *Outbox) checkRights(ctx context.Context, db *sql.DB) error {
	if ob.dialect != Postgres {
		return nil
	}
	lacking, err := readTexts(ctx, db, dialect.PostgresRights)
	for _, id := range ob.names {
		if err != nil {
			break
		}
		var ofEntity []string
		ofEntity, err = readTexts(ctx, db, dialect.PostgresEntityRights, Postgres.Quote(ob.entities[id].Table))
		lacking = append(lacking, ofEntity...)
	}
	switch {
	case err != nil:
		return fmt.Errorf("outbox: read the role's rights: %w", err)
	case len(lacking) > 0:
		return fmt.Errorf("outbox: the database's role lacks rights without which nothing can be recorded: let the tables' owner run\n%s", strings.Join(lacking, "\n"))
	}
	return nil
}

func readTexts(ctx context.Context, db *sql.DB, query string, args ...any) (texts []string, err error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		texts = append(texts, text)
	}
	return texts, rows.Err()
}
