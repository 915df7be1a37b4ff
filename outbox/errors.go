package outbox

import (
	"errors"
	"fmt"
	"strings"

	"github.com/lockstep-go/lockstep/internal/dialect"
)

// Sentinel errors.
var (
	// ErrUnknownEntity reports an entity that is not in Config.Entities.
	ErrUnknownEntity = errors.New("unknown entity")
	// ErrNotMigrated reports that Lockstep's tables or columns are missing.
	ErrNotMigrated = errors.New("database is not migrated")
	// ErrFlushing reports that a function of an [Entity] marked, tracked, deleted or
	// flushed rows, or published: while events are written it may only read.
	ErrFlushing = errors.New("events are being written: a function of an Entity may read, but not mark, track, delete, publish or flush")
)

// NotFoundError reports keys that have no row in the entity's table, so that
// nothing could be sent about them.
type NotFoundError struct {
	Entity string
	Keys   []string

	deleting bool
}

func (e *NotFoundError) Error() string {
	if e.deleting {
		return fmt.Sprintf("outbox: %s/%s does not exist, so its deletion cannot be sent: was it deleted before, without Tx.Deleting?", e.Entity, firstOf(e.Keys))
	}
	return fmt.Sprintf("outbox: %s/%s does not exist: mark a key after its row was written, and delete through Tx.Delete or after Tx.Deleting", e.Entity, firstOf(e.Keys))
}

// TrackError reports saved keys of an entity with tracked fields whose previous
// values are not known, because [Tx.Track] was not called before the change, or
// because another transaction created the row after Track had found none. In the
// second case running the transaction again will do.
type TrackError struct {
	Entity string
	Keys   []string
}

func (e *TrackError) Error() string {
	return fmt.Sprintf("outbox: %s/%s was changed without being tracked: call Tx.Track with its key before the change (if it was called, another transaction has made the row since: run this one again)", e.Entity, firstOf(e.Keys))
}

// PayloadError reports an event that is larger than Config.MaxPayload.
type PayloadError struct {
	Entity, Key string
	// Size is the event's, or that of its data if these alone are too large, and
	// Limit the largest that is sent, in bytes.
	Size, Limit int64
}

func (e *PayloadError) Error() string {
	return fmt.Sprintf("outbox: %s/%s: its event has %d bytes and at most %d are sent: send fewer Fields, or raise Config.MaxPayload as far as the broker allows", e.Entity, short(e.Key), e.Size, e.Limit)
}

// RowError reports a row that cannot be sent, and where it can be told, the
// column that is to blame.
type RowError struct {
	Entity string
	// Keys is the row's key, alone.
	Keys []string
	// Column is "" when it is not known.
	Column string
	Err    error
}

func (e *RowError) Error() string {
	where := ""
	if e.Column != "" {
		where = ", column " + e.Column
	}
	return fmt.Sprintf("outbox: %s/%s%s: %v", e.Entity, firstOf(e.Keys), where, e.Err)
}

// Unwrap returns what was wrong with the row.
func (e *RowError) Unwrap() error { return e.Err }

// withRemedy adds the remedy to an error about a missing table of ours.
func withRemedy(err error) error {
	if errors.Is(err, dialect.ErrNoTable) || dialect.IsMissingTable(err) {
		return fmt.Errorf("%w: run `relay migrate up`: %w", ErrNotMigrated, err)
	}
	return err
}

// firstOf names the first of keys, and says how many more there are.
func firstOf(keys []string) string {
	if len(keys) == 1 {
		return short(keys[0])
	}
	return fmt.Sprintf("%s (and %d more)", short(keys[0]), len(keys)-1)
}

// short keeps what is wrong with a key legible when the key itself is too long.
func short(key string) string {
	const most = 200
	if len(key) <= most {
		return key
	}
	return strings.ToValidUTF8(key[:most], "") + "…"
}
