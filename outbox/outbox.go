// Package outbox is the write side: it records events about entities in the
// transaction that changes them.
//
// # What it guarantees
//
// A change and its event commit together or not at all. The API takes the
// transaction, and a plain *sql.DB does not fit where one is asked for, so a
// change in one transaction and its event in another does not compile.
//
// An event carries exactly what was committed: [Tx.Saved] only marks a key, and
// the row is read once, at the end of the transaction, after its revision was
// raised under the row lock. Many saves of one key in one transaction give one
// event and one revision. A save and a delete give the delete.
//
// Revisions grow by one with each event of a key and never restart, also when a
// deleted key is used again. Outbox ids of one key grow in the order of its
// commits.
//
// # What it does not
//
// Changes that are not marked are not seen. On PostgreSQL, under REPEATABLE READ,
// a row that is created again under a key which another transaction deleted after
// this one began may restart its revisions: use READ COMMITTED, the default. On
// MySQL both are right; READ COMMITTED gets into fewer deadlocks. A deadlock
// undoes the whole transaction there, and its Tx refuses everything from then on.
//
// # Use
//
//	ob, err := outbox.New(outbox.Config{
//		Dialect:  outbox.Postgres,
//		Entities: []outbox.Entity{{ID: "account", Table: "accounts", Key: "id"}},
//	})
//	…
//	err = ob.InTx(ctx, db, func(ctx context.Context, tx *outbox.Tx) error {
//		if _, err := tx.ExecContext(ctx, `UPDATE accounts SET balance = 0 WHERE id = $1`, id); err != nil {
//			return err
//		}
//		return tx.Saved("account", id)
//	})
//
// A transaction that something else begins and commits is wrapped by
// [Outbox.Wrap]. Its flush must not be forgotten; a pool from [Outbox.Open]
// refuses to commit without.
//
// An [Outbox] may be used from several goroutines at once, a [Tx] from one at a
// time.
package outbox

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// Dialect says which database's SQL is spoken.
type Dialect = dialect.Name

// The databases the outbox can be written on.
const (
	Postgres = dialect.Postgres
	// MySQL is MySQL from 8.0.20 and MariaDB from 10.6.
	MySQL  = dialect.MySQL
	SQLite = dialect.SQLite
)

// Config says what an Outbox records.
type Config struct {
	// Dialect is required: Postgres, MySQL or SQLite.
	Dialect Dialect
	// Entities are the tables whose rows are sent. At least one is required.
	Entities []Entity
	// Unprepared keeps [Outbox.InTx] from preparing statements in the server's
	// session, its own and those of [Tx.ExecContext] that are used again. Preparing
	// makes them faster, but takes a connection that stays with its session: set
	// this behind a pooler that hands out sessions by the transaction and does not
	// know of prepared statements (PgBouncer before 1.21). Default false. Without
	// effect with other drivers than lib/pq.
	Unprepared bool
	// Meta makes the events' meta, of all entities without a Meta of their own.
	// Default: an empty object.
	Meta func(ctx context.Context, row Instance) (map[string]any, error)
	// CorrelationID makes the events' correlation_id: anything that is encoded as
	// JSON. A time and what has a text, such as a UUID, become strings. It is called
	// with the flush's context, once for each entity. Default: null.
	CorrelationID func(ctx context.Context) any
	// MaxPayload is how many bytes an event may have; a larger one is a
	// [PayloadError], before it is inserted. Default 16 MiB, which is what RabbitMQ 4
	// takes unless configured otherwise (NATS takes 1 MiB).
	MaxPayload int64
}

// defaultMaxPayload is RabbitMQ 4's max_message_size.
const defaultMaxPayload = 16 << 20

// Outbox records events. It holds no connection and starts no goroutine.
type Outbox struct {
	dialect  Dialect
	entities map[string]Entity
	names    []string // the entities' IDs in the order of the Config

	unprepared    bool
	meta          func(ctx context.Context, row Instance) (map[string]any, error)
	correlationID func(ctx context.Context) any
	maxPayload    int64
	announce      atomic.Pointer[func(*Tx)] // tells a guard of a Tx; nil: no pool has a guard

	mu    sync.Mutex
	plans map[string]*plan // by ID, built at first use

	sessions sessions
}

// New checks the configuration as far as it can be without a database, and
// reports all its faults at once. [Outbox.Check] does the rest.
func New(cfg Config) (*Outbox, error) {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("outbox: "+format, args...))
	}
	switch cfg.Dialect {
	case Postgres, MySQL, SQLite:
	default:
		fault("Config.Dialect is %q: use one of %s", cfg.Dialect, dialect.Known)
	}
	if len(cfg.Entities) == 0 {
		fault("Config.Entities is empty: name at least one entity")
	}
	if cfg.MaxPayload < 0 {
		fault("Config.MaxPayload is %d: use a number of bytes, or 0 for 16 MiB", cfg.MaxPayload)
	}
	ob := &Outbox{
		dialect: cfg.Dialect, entities: map[string]Entity{}, plans: map[string]*plan{},
		unprepared: cfg.Unprepared, meta: cfg.Meta, correlationID: cfg.CorrelationID,
		maxPayload: cmp.Or(cfg.MaxPayload, defaultMaxPayload),
		sessions:   sessions{id: rand.Text(), known: map[any]*prepared{}},
	}
	for i, e := range cfg.Entities {
		if err := event.ValidateName("ID", e.ID); err != nil {
			fault("Config.Entities[%d]: %w", i, err)
			continue
		}
		if strings.Contains(e.ID, ".") {
			fault("Config.Entities[%d]: ID %q contains a dot, which separates the parts of a topic", i, e.ID)
			continue
		}
		if _, twice := ob.entities[e.ID]; twice {
			fault("entity %s is declared twice: a CQRS ID names one entity", e.ID)
			continue
		}
		switch {
		case e.Key == "" && len(e.Keys) == 0:
			e.Key = event.FieldDeletedKey
		case e.Key == "" && len(e.Keys) == 1:
			e.Key, e.Keys = e.Keys[0], nil
		}
		for _, err := range e.faults() {
			fault("entity %s: %w", e.ID, err)
		}
		e.Fields, e.Tracked, e.Keys = slices.Clone(e.Fields), slices.Clone(e.Tracked), slices.Clone(e.Keys)
		ob.entities[e.ID] = e
		ob.names = append(ob.names, e.ID)
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return ob, nil
}

func (ob *Outbox) unknown(id string) error {
	return fmt.Errorf("outbox: %w %q: declare it, or correct the name; declared are %s", ErrUnknownEntity, id, strings.Join(ob.names, ", "))
}
