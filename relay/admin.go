package relay

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// Admin looks after the messages of an outbox that the broker refused, beside
// the relay that runs on it. Make it with [NewAdmin]. All methods may be called
// from any goroutine and block for one short statement or transaction.
type Admin struct{ store *store }

// NewAdmin returns an Admin of the outbox in db. A dialect of "" is told from the
// driver.
func NewAdmin(db *sql.DB, d Dialect) (*Admin, error) {
	if db == nil {
		return nil, errors.New("relay: the database is nil")
	}
	if d == "" {
		var err error
		if d, err = dialect.Detect(db); err != nil {
			return nil, fmt.Errorf("relay: %w", err)
		}
	} else if !d.Valid() {
		return nil, fmt.Errorf("relay: the dialect is %q: use one of %s", d, dialect.Known)
	}
	return &Admin{newStore(db, d)}, nil
}

// DeadLetter is a message that the relay gave up.
type DeadLetter struct {
	ID                int64 // it had in outbox
	Topic, Key        string
	Payload, Metadata []byte // Metadata is a JSON object
	Attempts          int
	Error             string // of the last attempt
	Created, Died     time.Time
}

// DeadLetters lists at most limit dead messages with an id above after, in id order.
func (a *Admin) DeadLetters(ctx context.Context, after int64, limit int) ([]DeadLetter, error) {
	return list(ctx, a.store, "list dead letters", a.store.sql.Letters, after, limit, func(scan func(...any) error) (d DeadLetter, err error) {
		var created, died int64
		err = scan(&d.ID, &d.Topic, &d.Key, &d.Payload, &d.Metadata, &d.Attempts, &d.Error, &created, &died)
		d.Created, d.Died = time.UnixMilli(created), time.UnixMilli(died)
		return d, err
	})
}

func list[T any](
	ctx context.Context, s *store, what, query string, after int64, limit int, read func(scan func(...any) error) (T, error),
) ([]T, error) {
	found, err := bounded(ctx, callTimeout, func(ctx context.Context) ([]T, error) {
		rows, err := s.query(s.db).QueryContext(ctx, query, after, limit)
		if err != nil {
			return nil, err
		}
		defer func() { _ = rows.Close() }()
		var all []T
		for rows.Next() {
			one, err := read(rows.Scan)
			if err != nil {
				return nil, err
			}
			all = append(all, one)
		}
		return all, rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("relay: %s: %w", what, err)
	}
	return found, nil
}

// RetryDead puts dead messages back into the outbox, behind what is there, and
// returns how many there were. An event that expires gets its life anew, counted
// from now. To a replica that has seen newer ones of the key they are stale.
func (a *Admin) RetryDead(ctx context.Context, ids ...int64) (int64, error) {
	if err := a.renew(ctx, ids); err != nil {
		return 0, err
	}
	if a.store.sql.RevivePurges {
		return a.change(ctx, "retry dead letters", ids, 0, a.store.sql.Revive)
	}
	return a.change(ctx, "retry dead letters", ids, 0, a.store.sql.Revive, a.store.sql.Purge)
}

// renewPage is how many dead letters are read at once to be renewed.
const renewPage = 200

// renew gives those dead messages that are events and expire their life anew. To do
// it twice, after a crash in between, does no harm.
func (a *Admin) renew(ctx context.Context, ids []int64) error {
	if len(ids) == 0 {
		return nil
	}
	wanted := make(map[int64]bool, len(ids))
	for _, id := range ids {
		wanted[id] = true
	}
	last := slices.Max(ids)
	for after := slices.Min(ids) - 1; after < last; {
		page, err := a.DeadLetters(ctx, after, renewPage)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, d := range page {
			after = d.ID
			e, err := event.Decode(d.Payload)
			if !wanted[d.ID] || err != nil || e.Expires.IsZero() {
				continue // any message may be in an outbox
			}
			e.Renew(time.Now(), e.Life(d.Created))
			if err := a.rewrite(ctx, d.ID, e.AppendJSON(nil)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *Admin) rewrite(ctx context.Context, id int64, payload []byte) error {
	_, err := bounded(ctx, callTimeout, func(ctx context.Context) (sql.Result, error) {
		return a.store.query(a.store.db).ExecContext(ctx, a.store.sql.Rewrite, id, payload)
	})
	if err != nil {
		return fmt.Errorf("relay: renew dead letter %d: %w", id, err)
	}
	return nil
}

// PurgeDead deletes dead messages for good and returns how many there were.
func (a *Admin) PurgeDead(ctx context.Context, ids ...int64) (int64, error) {
	return a.change(ctx, "purge dead letters", ids, 0, a.store.sql.Purge)
}

// change runs statements about ids in one transaction and returns how many rows
// the one of index counted changed.
func (a *Admin) change(ctx context.Context, what string, ids []int64, counted int, statements ...string) (int64, error) {
	if len(ids) == 0 {
		return 0, nil
	}
	changed, err := unopposed(ctx, func(ctx context.Context) (int64, error) {
		return a.changeOnce(ctx, a.store.dialect.IDs(ids), counted, statements)
	})
	if err != nil {
		return 0, fmt.Errorf("relay: %s: %w", what, err)
	}
	return changed, nil
}

func (a *Admin) changeOnce(ctx context.Context, ids string, counted int, statements []string) (changed int64, err error) {
	err = a.store.brief(ctx, a.store.wholeTx(), func(q dialect.Querier) error {
		for i, statement := range statements {
			result, err := q.ExecContext(ctx, statement, ids)
			if err != nil {
				return err
			}
			if i != counted {
				continue
			}
			if changed, err = result.RowsAffected(); err != nil {
				return err
			}
		}
		return nil
	})
	return changed, err
}

// wholeTx keeps what one statement of a change has looked at as it is for the next: a
// row must not be deleted that was not there to be copied. On MySQL that is its own
// default; elsewhere the statements need no more than theirs.
func (s *store) wholeTx() *sql.TxOptions {
	if s.dialect != dialect.MySQL {
		return nil
	}
	return &sql.TxOptions{Isolation: sql.LevelRepeatableRead}
}
