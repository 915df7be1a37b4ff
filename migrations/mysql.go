package migrations

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/pressly/goose/v3/database"
	"github.com/pressly/goose/v3/lock"
)

// mysqlLock is a named lock of the server, one for each database.
type mysqlLock struct{}

var _ lock.SessionLocker = mysqlLock{}

// mysqlLockName is hashed because a lock's name is 64 characters at most.
const mysqlLockName = `CONCAT('lockstep-', MD5(COALESCE(DATABASE(), '')))`

// SessionLock waits for the lock, at most lockTimeout.
func (mysqlLock) SessionLock(ctx context.Context, conn *sql.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout+unlockTimeout)
	defer cancel()
	var got sql.NullBool
	err := conn.QueryRowContext(ctx, `SELECT GET_LOCK(`+mysqlLockName+`, ?)`, int(lockTimeout/time.Second)).Scan(&got)
	switch {
	case err != nil:
		return fmt.Errorf("wait for the lock: %w", err)
	case !got.Bool:
		return fmt.Errorf("wait for the lock: another process has been migrating for %v", lockTimeout)
	}
	return nil
}

// SessionUnlock gives the lock back. Should that fail, the end of the connection does it.
func (mysqlLock) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, unlockTimeout)
	defer cancel()
	if _, err := conn.ExecContext(ctx, `DO RELEASE_LOCK(`+mysqlLockName+`)`); err != nil {
		return fmt.Errorf("unlock: %w", err)
	}
	return nil
}

// mysqlStore is goose's table of versions, read without asking the connection to
// turn times into Go's: that is an option of the driver (parseTime), and the
// session's time zone would have to be the driver's.
type mysqlStore struct{ database.Store }

func newMySQLStore() (mysqlStore, error) {
	s, err := database.NewStore(database.DialectMySQL, versionTable)
	return mysqlStore{s}, err
}

// GetMigration returns when a version was applied.
func (s mysqlStore) GetMigration(ctx context.Context, db database.DBTxConn, version int64) (*database.GetMigrationResult, error) {
	var r database.GetMigrationResult
	var at float64
	query := `SELECT COALESCE(UNIX_TIMESTAMP(tstamp), 0), is_applied FROM ` + s.Tablename() + ` WHERE version_id = ? ORDER BY tstamp DESC LIMIT 1`
	err := db.QueryRowContext(ctx, query, version).Scan(&at, &r.IsApplied)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, fmt.Errorf("%w: %d", database.ErrVersionNotFound, version)
	case err != nil:
		return nil, fmt.Errorf("read migration %d: %w", version, err)
	}
	r.Timestamp = time.Unix(int64(at), 0).UTC()
	return &r, nil
}
