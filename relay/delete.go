package relay

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/lockstep-go/lockstep/internal/dialect"
)

// deleter deletes confirmed rows for one session, in one round trip where that can
// be had: a statement with parameters takes two unless it is prepared.
type deleter struct {
	*store
	run, list *sql.Stmt // nil: the statement is not prepared
}

func (s *store) deleter(ctx context.Context) (*deleter, error) {
	return bounded(ctx, callTimeout, func(ctx context.Context) (*deleter, error) { return s.openDeleter(ctx) })
}

func (s *store) openDeleter(ctx context.Context) (*deleter, error) {
	d := &deleter{store: s}
	if s.sql.DeleteRun == "" {
		return d, nil
	}
	var err error
	if d.run, err = s.db.PrepareContext(ctx, s.sql.DeleteRun); err == nil {
		d.list, err = s.db.PrepareContext(ctx, s.sql.Delete)
	}
	if err != nil {
		d.close() //nolint:contextcheck // closing is bounded by itself
		return nil, fmt.Errorf("prepare the deletion: %w", explained(err))
	}
	return d, nil
}

// close does not wait for a connection that has gone silent.
func (d *deleter) close() {
	_, _ = bounded(context.Background(), closeTimeout, func(context.Context) (struct{}, error) {
		var errs []error
		for _, s := range []*sql.Stmt{d.run, d.list} {
			if s != nil {
				errs = append(errs, s.Close())
			}
		}
		return struct{}{}, errors.Join(errs...)
	})
}

// delete deletes exactly the rows of these ids.
func (d *deleter) delete(ctx context.Context, ids []int64) (err error) {
	switch {
	case d.run == nil:
		_, err = d.query(d.db).ExecContext(ctx, d.sql.Delete, d.dialect.IDs(ids))
	case isRun(ids):
		_, err = d.run.ExecContext(ctx, ids[0], ids[len(ids)-1])
	default:
		_, err = d.list.ExecContext(ctx, d.dialect.IDs(ids))
	}
	return err
}

// isRun reports whether each id is the one after that before it, so that no other
// row can be among them.
func isRun(ids []int64) bool {
	for i, id := range ids {
		if id != ids[0]+int64(i) {
			return false
		}
	}
	return true
}

// settle writes down what became of a batch. In the usual case, where all was
// confirmed, that is one statement.
func (d *deleter) settle(ctx context.Context, what settlement) error {
	_, err := unopposed(ctx, func(ctx context.Context) (struct{}, error) { return struct{}{}, d.settleNow(ctx, what) })
	return err
}

func (d *deleter) settleNow(ctx context.Context, what settlement) error {
	if len(what.mended)+len(what.failed)+len(what.dead) > 0 {
		if err := d.brief(ctx, nil, func(q dialect.Querier) error { return d.settleIn(ctx, q, what) }); err != nil {
			return fmt.Errorf("settle: %w", err)
		}
		return nil
	}
	if len(what.done) == 0 {
		return nil
	}
	if err := d.delete(ctx, what.done); err != nil {
		return fmt.Errorf("delete confirmed rows: %w", err)
	}
	return nil
}
