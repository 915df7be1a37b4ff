package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lockstep-go/lockstep/internal/dialect"
)

// locate runs a statement for keys, and if the database refuses a row, finds out
// which. PostgreSQL ends a transaction with its first error, unless there is a
// savepoint; MySQL undoes one statement of the several that were run.
func (tx *Tx) locate(ctx context.Context, p *plan, keys []string, run func(keys []string) error) error {
	save := func(string) error { return nil }
	if tx.ob.dialect != SQLite {
		save = func(statement string) error {
			_, err := tx.tx.ExecContext(ctx, statement+" lockstep_flush")
			return err
		}
	}
	if len(keys) == 1 { // the common case, which a savepoint would make dearer
		return p.blame(keys, run(keys))
	}
	if err := save("SAVEPOINT"); err != nil {
		return p.blame(keys, err)
	}
	err := run(keys)
	if err == nil {
		return p.blame(keys, save("RELEASE SAVEPOINT"))
	}
	for !named(err) && dialect.Classify(err) == dialect.Data && len(keys) > 1 {
		if undo := save("ROLLBACK TO SAVEPOINT"); undo != nil {
			break
		}
		half := keys[:len(keys)/2]
		if halved := run(half); halved != nil {
			keys, err = half, halved
		} else {
			keys = keys[len(keys)/2:]
		}
	}
	return p.blame(keys, err)
}

// named reports whether an error says by itself what it is about.
func named(err error) bool {
	var row *RowError
	var large *PayloadError
	var untracked *TrackError
	var function *functionError
	_, _, tooLarge := dialect.TooLarge(err)
	return tooLarge || errors.As(err, &row) || errors.As(err, &large) || errors.As(err, &untracked) || errors.As(err, &function)
}

// functionError is what a function of the configuration returned.
type functionError struct{ err error }

func (e *functionError) Error() string { return e.err.Error() }
func (e *functionError) Unwrap() error { return e.err }

// blame says of an error which entity and which keys it is about.
func (p *plan) blame(keys []string, err error) error {
	if err == nil {
		return nil
	}
	if size, key, large := dialect.TooLarge(err); large {
		return &PayloadError{Entity: p.ID, Key: key, Size: size, Limit: p.built.MaxPayload}
	}
	if named(err) {
		return err
	}
	err = withRemedy(err)
	if dialect.Classify(err) != dialect.Data || len(keys) > 1 {
		return fmt.Errorf("outbox: %s/%s: %w", p.ID, firstOf(keys), err)
	}
	return &RowError{Entity: p.ID, Keys: slices.Clone(keys), Column: dialect.ColumnOf(err), Err: err}
}
