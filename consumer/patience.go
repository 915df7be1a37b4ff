package consumer

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/lockstep-go/lockstep/internal/dialect"
)

// patience is Config.StatementTimeout at work. Where the server does not keep the
// time, a context does.
type patience struct {
	timeout  time.Duration // zero: none
	byServer bool
	log      *slog.Logger
}

func (c *Consumer) newPatience(log *slog.Logger) patience {
	return patience{c.cfg.StatementTimeout, c.dialect == dialect.Postgres, log}
}

// begin is the first thing in a transaction.
func (p *patience) begin(ctx context.Context, tx *sql.Tx) error {
	if p.timeout == 0 || !p.byServer {
		return nil
	}
	if _, err := tx.ExecContext(ctx, dialect.PostgresStatementTimeout, strconv.FormatInt(p.timeout.Milliseconds(), 10)); err != nil {
		return fmt.Errorf("consumer: set the statement timeout: %w", err)
	}
	return nil
}

// limit bounds one statement.
func (p *patience) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	if p.timeout == 0 || p.byServer {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, p.timeout)
}

// maxStatementShown is how much of a statement is logged.
const maxStatementShown = 1000

// tooLong logs a statement that err says was given up for its timeout, and not
// for the end of the context in which it was limited.
func (p *patience) tooLong(ctx context.Context, err error, query string) {
	if p.timeout > 0 && ctx.Err() == nil && dialect.Classify(err) == dialect.Canceled {
		p.log.Warn("a statement took too long", "statement", shorten(query, maxStatementShown), "timeout", p.timeout, logError, err)
	}
}
