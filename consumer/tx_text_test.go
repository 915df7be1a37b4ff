package consumer

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRefusedTexts(t *testing.T) {
	t.Parallel()
	for _, query := range []string{"COMMIT", " commit;", "-- done\nCommit", "/* a */ /* b */\tROLLBACK", "rollback work", "BEGIN", "START TRANSACTION", "end", "ABORT", "PREPARE TRANSACTION 'x'", ";commit"} {
		if err := refuse(query); !errors.Is(err, ErrTransactionText) {
			t.Errorf("%q: have %v, want it refused", query, err)
		}
	}
	for _, query := range []string{"", "--", "/*", "SELECT 1", "ROLLBACK TO SAVEPOINT a", "rollback work to a", "SAVEPOINT commit", "PREPARE p AS SELECT 1", "ending", "begin_work()", "INSERT INTO t VALUES ('COMMIT')"} {
		if err := refuse(query); err != nil {
			t.Errorf("%q: have %v, want it taken", query, err)
		}
	}
}

// TestHandlerEndsItsTransaction: a handler that commits or rolls back by SQL, and
// then fails, does not cost its event.
func TestHandlerEndsItsTransaction(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		for _, query := range []string{"COMMIT", "ROLLBACK", "row COMMIT", "row ROLLBACK"} {
			query, byRow := strings.CutPrefix(query, "row ")
			calls := 0
			r, run := runAuthors(t, d, Config{Workers: 1}, func(ctx context.Context, tx Tx, ev Event[author]) error {
				if err := logAuthor(ctx, tx, ev); err != nil {
					return err
				}
				if calls++; calls > 1 {
					return nil
				}
				var none int
				var err error
				if byRow {
					err = tx.QueryRowContext(ctx, query).Scan(&none)
				} else {
					_, err = tx.ExecContext(ctx, query)
				}
				if !errors.Is(err, ErrTransactionText) {
					t.Errorf("%s: have %v, want it refused", query, err)
				}
				if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM author_log").Scan(&none); err != nil || none != 1 {
					t.Errorf("after %s: %v, and %d rows, want the transaction as it was", query, err, none)
				}
				return errors.New("after all not")
			}, HandlerOptions{RetryDelay: time.Millisecond})
			run.broker.mu.Lock()
			run.broker.requeue = true
			run.broker.mu.Unlock()
			run.broker.deliver(authorEvent("SAVE", 1, 1, "Ada"))
			eventually(t, "the event", func() bool { return r.Stats().Applied == 1 })
			if err := run.stop(t); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff([]string{"kind=create id=1 name=Ada revision=1"}, r.authorLog(t)); diff != "" {
				t.Errorf("%s: log (-want +have):\n%s", query, diff)
			}
		}
	})
}
