package consumer

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/internal/testdb"
)

// logCount counts what is logged, by message.
type logCount struct {
	slog.Handler
	mu    sync.Mutex
	lines map[string]int
}

func newLogCount() *logCount { return &logCount{Handler: slog.DiscardHandler, lines: map[string]int{}} }

func (h *logCount) Enabled(context.Context, slog.Level) bool { return true }
func (h *logCount) WithAttrs([]slog.Attr) slog.Handler       { return h }

func (h *logCount) Handle(_ context.Context, r slog.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines[r.Message]++
	return nil
}

func (h *logCount) count(message string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lines[message]
}

// refusal makes a database refuse what the consumer does, for a time.
type refusal struct {
	dialect    Dialect
	setting    string // of the consumer's connections
	value      string
	begin, end string
	lock       string // instead of begin and end: another session's transaction holds it
	unlock     string // what ends it, where the transaction's end does not
}

// TestDatabaseRefusesForATime: while the database is read-only, full, or locked by
// somebody else, the consumer waits. It says so once, asks seldom, and goes on by
// itself; no message pays.
func TestDatabaseRefusesForATime(t *testing.T) {
	t.Parallel()
	const lockTable = "LOCK TABLE account_ref IN ACCESS EXCLUSIVE MODE"
	for name, f := range map[string]refusal{
		"PostgreSQL, read-only":                  {dialect: Postgres, begin: raise("25006"), end: "DROP TRIGGER refused ON account_ref"},
		"PostgreSQL, full":                       {dialect: Postgres, begin: raise("53100"), end: "DROP TRIGGER refused ON account_ref"},
		"PostgreSQL, lock and lock_timeout":      {dialect: Postgres, setting: "lock_timeout", value: "20", lock: lockTable},
		"PostgreSQL, lock and statement_timeout": {dialect: Postgres, setting: "statement_timeout", value: "3000", lock: lockTable},
		"PostgreSQL, lock":                       {dialect: Postgres, setting: "application_name", value: "x", lock: lockTable},
		"MariaDB, read-only":                     {dialect: MySQL, begin: signal(1290), end: "DROP TRIGGER refused"},
		"MariaDB, full":                          {dialect: MySQL, begin: signal(1114), end: "DROP TRIGGER refused"},
		"MariaDB, lock":                          {dialect: MySQL, lock: "LOCK TABLES account_ref WRITE", unlock: "UNLOCK TABLES"},
		"SQLite, read-only":                      {dialect: SQLite, begin: "PRAGMA query_only = on", end: "PRAGMA query_only = off"},
		"SQLite, full":                           {dialect: SQLite, begin: "PRAGMA max_page_count = 1", end: "PRAGMA max_page_count = 100000"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f.run(t)
		})
	}
}

// raise makes the server refuse writes with a code, as it does itself with the
// code for a standby or for a full disk.
func raise(code string) string {
	return `CREATE FUNCTION refused() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION USING ERRCODE = '` + code + `'; END $$;
		CREATE TRIGGER refused BEFORE INSERT OR UPDATE ON account_ref FOR EACH STATEMENT EXECUTE FUNCTION refused()`
}

// signal is the same for MariaDB, with the number of its own error.
func signal(number int) string {
	return fmt.Sprintf(`CREATE TRIGGER refused BEFORE INSERT ON account_ref FOR EACH ROW SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = %d`, number)
}

func (f refusal) open(t *testing.T) (own, other *sql.DB) {
	t.Helper()
	switch f.dialect {
	case SQLite:
		own = openDB(t, SQLite, accountTable)
		return own, own
	case MySQL:
		other, dsn := testdb.MariaDB(t)
		migrate(t, other, MySQL)
		mustExec(t, other, typesOf(MySQL, strings.ReplaceAll(accountTable, "%s", "datetime(6)")))
		own, err := sql.Open("mysql", dsn)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = own.Close() })
		return own, other
	}
	other, dsn := testdb.Postgres(t)
	migrate(t, other, Postgres)
	mustExec(t, other, strings.ReplaceAll(accountTable, "%s", "timestamptz"))
	if f.setting == "" {
		return reopen(t, dsn, "application_name", "refused"), other
	}
	return reopen(t, dsn, f.setting, f.value), other
}

func (f refusal) run(t *testing.T) {
	own, other := f.open(t)
	own.SetMaxOpenConns(1)
	r := rigOn(t, own, map[string]Table{"account": {Name: "account_ref", Columns: accountColumns, MaxRetries: NoRetries}})
	log := newLogCount()
	// Long enough for a batch on a machine that halts now and then: else that is an outage, too.
	r.cfg.Now, r.cfg.TransactionTimeout, r.cfg.Logger = time.Now, 5*time.Second, slog.New(log)
	broker := newTestBroker()
	run := r.start(t, broker, broker)
	broker.deliver(save(1, 1, "one"))
	run.awaitAcked(t, 1)

	end := f.refuse(t, other)
	const many = 300
	broker.deliver(save(2, 1, strings.Repeat("x", 5000))) // of a size that needs more pages
	for i := range many - 1 {
		broker.deliver(save(i+3, 1, strings.Repeat("x", 300)))
	}
	eventually(t, "the consumer pauses", func() bool { return r.Stats().Pauses == 1 })
	window := time.NewTimer(2500 * time.Millisecond)
	<-window.C
	if n := log.count("still waiting for the database"); n < 1 || n > 10 {
		t.Errorf("%d attempts in 2.5 seconds, want a few", n)
	}
	if acked, nacked := broker.counts(); acked != 1 || nacked != 0 {
		t.Errorf("%d acknowledged and %d given back meanwhile, want 1 and 0", acked, nacked)
	}
	end()
	run.awaitAcked(t, many+1)
	if s := r.Stats(); s.Applied != many+1 || s.Retried+s.Dead != 0 || s.Pauses != 1 {
		t.Errorf("have %+v, want all applied, one pause and no attempt spent", s)
	}
	if said, over := log.count("waiting for the database"), log.count("the database works again"); said != 1 || over != 1 {
		t.Errorf("said %d times that it waits and %d times that it need not, want once each", said, over)
	}
}

// refuse begins the refusal and returns what ends it.
func (f refusal) refuse(t *testing.T, other *sql.DB) (end func()) {
	t.Helper()
	if f.lock == "" {
		mustExec(t, other, f.begin)
		return func() { mustExec(t, other, f.end) }
	}
	tx, err := other.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.ExecContext(t.Context(), f.lock); err != nil {
		t.Fatal(err)
	}
	return func() {
		if f.unlock != "" {
			if _, err := tx.ExecContext(t.Context(), f.unlock); err != nil {
				t.Error(err)
			}
		}
		_ = tx.Rollback()
	}
}
