package relay

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"

	"github.com/lockstep-go/lockstep/internal/dialect"
)

// brief runs fn in a transaction that the database itself ends when nothing comes
// from this process for a few seconds. A relay that is frozen in the middle, or cut
// off without a word, would otherwise hold its locks for as long as it likes, and
// whoever takes over would wait for them.
func (s *store) brief(ctx context.Context, opts *sql.TxOptions, fn func(q dialect.Querier) error) error {
	if s.sql.Unbound != "" {
		return s.briefSession(ctx, opts, fn)
	}
	tx, err := s.db.BeginTx(ctx, opts)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if s.sql.Bound != "" {
		if _, err := tx.ExecContext(ctx, s.sql.Bound); err != nil {
			return err
		}
	}
	if err := fn(s.query(tx)); err != nil {
		return err
	}
	return tx.Commit()
}

// briefSession is brief where the bound is the session's: it is taken back at the
// end, since the pool may belong to others, too.
func (s *store) briefSession(ctx context.Context, opts *sql.TxOptions, fn func(q dialect.Querier) error) error {
	conn, err := s.boundSession(ctx)
	if err != nil {
		return err
	}
	defer s.unbind(context.WithoutCancel(ctx), conn)
	tx, err := conn.BeginTx(ctx, opts)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if err := fn(s.query(tx)); err != nil {
		return err
	}
	return tx.Commit()
}

// boundSession returns a connection of the pool with the bound. As database/sql
// does it for statements, those that have died in the pool are passed over.
func (s *store) boundSession(ctx context.Context) (*sql.Conn, error) {
	for tries := 1; ; tries++ {
		conn, err := s.db.Conn(ctx)
		if err != nil {
			return nil, err
		}
		_, err = conn.ExecContext(ctx, s.sql.Bound)
		if err == nil {
			return conn, nil
		}
		_ = conn.Close()
		if !errors.Is(err, driver.ErrBadConn) || tries == 3 {
			return nil, err
		}
	}
}

// unbind gives a connection back to the pool as it was, or not at all.
func (s *store) unbind(ctx context.Context, conn *sql.Conn) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := conn.ExecContext(ctx, s.sql.Unbound); err != nil {
		_ = conn.Raw(func(any) error { return driver.ErrBadConn }) // drops it
	}
	_ = conn.Close()
}
