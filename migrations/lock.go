package migrations

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/pressly/goose/v3/lock"

	"github.com/lockstep-go/lockstep/internal/dialect"
)

// Bounds of waiting for another process that migrates the same schema.
const (
	lockTimeout   = 5 * time.Minute
	unlockTimeout = 30 * time.Second
)

// lockClass is the first half of the advisory lock, so that it does not meet
// other programs' locks. The second half is the schema: migrations of different
// schemas do not wait for each other.
const lockClass = 0x6c6b6d67

// sessionLock is a PostgreSQL advisory lock on the current schema. The server
// hands it on at once; goose's own asks again every few seconds.
type sessionLock struct{}

var _ lock.SessionLocker = sessionLock{}

// SessionLock waits for the lock, at most lockTimeout.
func (sessionLock) SessionLock(ctx context.Context, conn *sql.Conn) error {
	ctx, cancel := context.WithTimeoutCause(ctx, lockTimeout, fmt.Errorf("another process has been migrating for %v", lockTimeout))
	defer cancel()
	_, err := conn.ExecContext(ctx, `SELECT pg_advisory_lock($1, hashtext(coalesce(current_schema(), '')))`, lockClass)
	if err != nil {
		return fmt.Errorf("wait for the lock: %w", dialect.WithCause(ctx, err))
	}
	return nil
}

// SessionUnlock gives the lock back. Should that fail, the end of the connection does it.
func (sessionLock) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, unlockTimeout)
	defer cancel()
	_, err := conn.ExecContext(ctx, `SELECT pg_advisory_unlock($1, hashtext(coalesce(current_schema(), '')))`, lockClass)
	if err != nil {
		return fmt.Errorf("unlock: %w", err)
	}
	return nil
}
