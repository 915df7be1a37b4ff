package consumer

import (
	"context"
	"strings"
	"testing"
	"time"
)

// slowTables make a table's insertions slow as long as there is a row in the table slow.
var slowTables = map[Dialect][]string{
	Postgres: {
		`CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF EXISTS (SELECT FROM slow) THEN PERFORM pg_sleep(60); END IF; RETURN NEW; END $$`,
		`CREATE TRIGGER wait BEFORE INSERT ON account_ref FOR EACH ROW EXECUTE FUNCTION wait()`,
	},
	MySQL: {`CREATE TRIGGER wait BEFORE INSERT ON account_ref FOR EACH ROW BEGIN IF EXISTS (SELECT 1 FROM slow) THEN DO SLEEP(60); END IF; END`},
	SQLite: {`CREATE TRIGGER wait BEFORE INSERT ON account_ref FOR EACH ROW WHEN EXISTS (SELECT 1 FROM slow) BEGIN
		SELECT count(*) FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i < 0); END`},
}

// TestStatementTimeoutOfTables: a statement that takes too long is logged and counts
// as an outage: the message waits and pays nothing.
func TestStatementTimeoutOfTables(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		var book logBook
		r, run := twoEntities(t, d, Config{StatementTimeout: 2 * time.Second, Logger: book.logger()})
		mustExec(t, r.db, "CREATE TABLE slow (id int)")
		for _, statement := range slowTables[d] {
			mustExec(t, r.db, statement)
		}
		run.broker.deliver(save(2, 1, "x")) // prepares the statement
		run.awaitAcked(t, 1)
		mustExec(t, r.db, "INSERT INTO slow VALUES (1)")
		pauses := r.Stats().Pauses
		run.broker.deliver(save(1, 1, "x"))
		eventually(t, "the consumer pauses", func() bool { return r.Stats().Pauses > pauses })
		mustExec(t, r.db, "DELETE FROM slow")
		run.awaitAcked(t, 2)
		if s := r.Stats(); s.Applied != 2 || s.Retried != 0 || !strings.Contains(book.String(), "a statement took too long") || !strings.Contains(book.String(), "account_ref") {
			t.Errorf("have %+v and the log\n%s", s, book.String())
		}
	})
}

// TestStatementTimeoutOfHandlers: there it is logged, too, and costs the event an attempt.
func TestStatementTimeoutOfHandlers(t *testing.T) {
	t.Parallel()
	slow := map[Dialect]string{
		Postgres: "SELECT count(*), pg_sleep(60)",
		MySQL:    "SELECT count(*), SLEEP(60)",
		SQLite:   "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n WHERE i < 0",
	}
	eachDialect(t, func(t *testing.T, d Dialect) {
		for _, how := range []string{"query", "row", "exec"} {
			var book logBook
			r, run := runAuthors(t, d, Config{StatementTimeout: 2 * time.Second, Logger: book.logger()}, func(ctx context.Context, tx Tx, _ Event[author]) error {
				var n int
				var x any
				switch how {
				case "exec":
					_, err := tx.ExecContext(ctx, slow[d])
					return err
				case "query":
					rows, err := tx.QueryContext(ctx, slow[d])
					if err != nil {
						return err
					}
					defer func() { _ = rows.Close() }()
					for rows.Next() {
						n++
					}
					return rows.Err()
				}
				return tx.QueryRowContext(ctx, slow[d]).Scan(&n, &x)
			}, HandlerOptions{MaxRetries: NoRetries})
			start := time.Now()
			run.broker.deliver(authorEvent("SAVE", 1, 1, "x"))
			run.deadLetter(t)
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("%s: that took %s", how, took)
			}
			if !strings.Contains(book.String(), "a statement took too long") || !strings.Contains(book.String(), slow[d][:12]) || r.Stats().Pauses > 0 {
				t.Errorf("%s: %+v, the log says\n%s", how, r.Stats(), book.String())
			}
		}
	})
}

// TestStatementOfTooManyRows: rows that are each fast enough are applied, though a
// statement with all of them takes too long.
func TestStatementOfTooManyRows(t *testing.T) {
	t.Parallel()
	slow := map[Dialect][]string{
		Postgres: {
			`CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.03); RETURN NEW; END $$`,
			`CREATE TRIGGER wait BEFORE INSERT ON account_ref FOR EACH ROW EXECUTE FUNCTION wait()`,
		},
		MySQL: {`CREATE TRIGGER wait BEFORE INSERT ON account_ref FOR EACH ROW DO SLEEP(0.03)`},
	}
	for d, statements := range slow {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			r, run := twoEntities(t, d, Config{StatementTimeout: time.Second})
			for _, statement := range statements {
				mustExec(t, r.db, statement)
			}
			if err := r.Pause("account"); err != nil {
				t.Fatal(err)
			}
			for key := range 60 {
				run.broker.deliver(save(key, 1, "x"))
			}
			eventually(t, "all are held", func() bool { return r.Stats().Received == 60 })
			if err := r.Resume("account"); err != nil {
				t.Fatal(err)
			}
			run.awaitAcked(t, 60)
			if s := r.Stats(); s.Applied != 60 || s.Pauses == 0 || s.Retried != 0 {
				t.Errorf("have %+v, want 60 applied after a pause", s)
			}
		})
	}
}
