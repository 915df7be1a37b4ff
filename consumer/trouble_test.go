package consumer

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
)

// TestHandlerMixesStatements: rows that are left open while the next statement is
// sent break the connection with some drivers. That is the handler's fault, not an
// outage without end.
func TestHandlerMixesStatements(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		r, run := runAuthors(t, d, Config{}, func(ctx context.Context, tx Tx, ev Event[author]) error {
			if ev.Key != "1" {
				return nil
			}
			rows, err := tx.QueryContext(ctx, "SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3") //nolint:sqlclosecheck,rowserrcheck // that is the point
			if err != nil {
				return err
			}
			rows.Next()
			return logAuthor(ctx, tx, ev)
		}, HandlerOptions{MaxRetries: NoRetries})
		run.broker.deliver(authorEvent("SAVE", 1, 1, "x"), authorEvent("SAVE", 2, 1, "x"))
		eventually(t, "both are settled", func() bool { s := r.Stats(); return s.Applied+s.Dead == 2 })
		if s := r.Stats(); s.Applied == 0 || !s.PausedSince.IsZero() {
			t.Errorf("have %+v, want the other handled and no pause left", s)
		}
	})
}

// TestHandlerMisusesTheConsumer: a transaction used after its handler's return,
// in goroutines, and calls of the consumer within a handler.
func TestHandlerMisusesTheConsumer(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		kept := make(chan Tx, 10)
		var c *Consumer
		ready := make(chan struct{})
		r, run := runAuthors(t, d, Config{}, func(ctx context.Context, tx Tx, ev Event[author]) error {
			<-ready
			switch ev.Key {
			case "1":
				kept <- tx
			case "2":
				err := errors.Join(c.Pause("author"), c.Resume("author"), c.Close())
				_ = c.Stats()
				return errors.Join(err, logAuthor(ctx, tx, ev))
			case "3":
				for range 20 {
					go func() {
						for range 20 {
							_ = logAuthor(ctx, tx, ev)
						}
					}()
				}
			}
			return nil
		}, HandlerOptions{MaxRetries: NoRetries})
		c = r.Consumer
		close(ready)
		run.broker.deliver(authorEvent("SAVE", 1, 1, "x"), authorEvent("SAVE", 2, 1, "x"))
		eventually(t, "two are settled", func() bool { s := r.Stats(); return s.Applied == 2 })
		tx := <-kept
		if _, err := tx.ExecContext(t.Context(), "INSERT INTO author_log (id, kind, revision) VALUES (99, 'kept', 1)"); err == nil {
			t.Error("a kept transaction still works")
		}
		if _, err := tx.QueryContext(t.Context(), "SELECT 1"); err == nil { //nolint:rowserrcheck,sqlclosecheck // there are no rows
			t.Error("a kept transaction still works")
		}
		if err := tx.QueryRowContext(t.Context(), "SELECT 1").Err(); err == nil {
			t.Error("a kept transaction still works")
		}
		if _, err := tx.PrepareContext(t.Context(), "SELECT 1"); err == nil { //nolint:sqlclosecheck // there is no statement
			t.Error("a kept transaction still works")
		}
		run.broker.deliver(authorEvent("SAVE", 3, 1, "x"), authorEvent("SAVE", 4, 1, "x"))
		eventually(t, "all are settled", func() bool { s := r.Stats(); return s.Applied+s.Dead == 4 })
		if s := r.Stats(); s.Pauses != 0 {
			t.Errorf("have %+v, want no pause", s)
		}
	})
}

// TestTriggerRefusesRows: what a trigger refuses fails alone, whatever code it
// uses for that; what it leaves out or changes is as it wishes.
func TestTriggerRefusesRows(t *testing.T) {
	t.Parallel()
	plpgsql := func(then string) []string {
		return []string{
			`CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.title = 'bad' THEN ` + then + `; END IF; NEW.title = upper(NEW.title); RETURN NEW; END $$`,
			`CREATE TRIGGER no BEFORE INSERT OR UPDATE ON account_ref FOR EACH ROW EXECUTE FUNCTION no()`,
		}
	}
	mysql := func(then string) []string {
		return []string{`CREATE TRIGGER no BEFORE INSERT ON account_ref FOR EACH ROW BEGIN
			IF NEW.title = 'bad' THEN SIGNAL SQLSTATE '45000' SET ` + then + `; END IF; SET NEW.title = upper(NEW.title); END`}
	}
	sqlite := func(then string) []string {
		return []string{
			`CREATE TRIGGER no BEFORE INSERT ON account_ref FOR EACH ROW WHEN NEW.title = 'bad' BEGIN SELECT RAISE(` + then + `); END`,
			`CREATE TRIGGER up AFTER INSERT ON account_ref FOR EACH ROW BEGIN UPDATE account_ref SET title = upper(title) WHERE id = NEW.id; END`,
		}
	}
	for name, tc := range map[string]struct {
		dialect Dialect
		ddl     []string
		dead    int64
	}{
		"PostgreSQL's code":         {Postgres, plpgsql("RAISE EXCEPTION 'no'"), 1},
		"code of its own":           {Postgres, plpgsql("RAISE EXCEPTION 'no' USING ERRCODE = 'U0001'"), 1},
		"NULL":                      {Postgres, plpgsql("RETURN NULL"), 0},
		"MySQL's number":            {MySQL, mysql("MESSAGE_TEXT = 'no'"), 1},
		"number of its own":         {MySQL, mysql("MYSQL_ERRNO = 31234, MESSAGE_TEXT = 'no'"), 1},
		"SQLite, the statement":     {SQLite, sqlite("ABORT, 'no'"), 1},
		"SQLite, and what is after": {SQLite, sqlite("FAIL, 'no'"), 1},
		"SQLite, the transaction":   {SQLite, sqlite("ROLLBACK, 'no'"), 1},
		"SQLite, the row":           {SQLite, sqlite("IGNORE"), 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, run := runAccounts(t, tc.dialect, Table{MaxRetries: 1, RetryDelay: time.Millisecond})
			for _, s := range tc.ddl {
				mustExec(t, r.db, s)
			}
			run.broker.requeue = true
			run.broker.deliver(save(1, 1, "good"), save(2, 1, "bad"), save(3, 1, "good"))
			eventually(t, "all are settled and counted", func() bool {
				s := r.Stats()
				return s.Applied+s.Dead == 3 && s.Retried >= tc.dead
			})
			if s := r.Stats(); s.Dead != tc.dead || s.Retried != tc.dead || s.Pauses != 0 {
				t.Errorf("have %+v, want %d retried and dead, no pause", s, tc.dead)
			}
			if diff := cmp.Diff([]string{"id=1 title=GOOD", "id=3 title=GOOD"}, r.titles(t)); diff != "" {
				t.Errorf("rows (-want +have):\n%s", diff)
			}
		})
	}
}

// TestStopWithHangingBroker: a stop does not wait for an attempt at each of many
// copies when none of them is taken.
func TestStopWithHangingBroker(t *testing.T) {
	t.Parallel()
	r, broker := accountRig(t, SQLite), newTestBroker()
	run := r.start(t, &hangingBroker{broker}, broker)
	const letters = 1000 // no more than may be held
	for range letters {
		run.broker.deliver(django("garbage"))
	}
	eventually(t, "the first attempts have failed, and all are taken", func() bool {
		s := r.Stats()
		return s.Stuck >= maxSending && s.Received == letters
	})
	begin := time.Now()
	if err := run.stop(t); err != nil {
		t.Errorf("Run: %v", err)
	}
	if took := time.Since(begin); took > 30*time.Second { // all of them, a second each and maxSending at a time, take 62
		t.Errorf("took %s, want the attempts under way only", took)
	}
	eventually(t, "all go back", func() bool { acked, nacked := run.broker.counts(); return acked == 0 && nacked == letters })
}

// hangingBroker takes nothing and takes its time to say so.
type hangingBroker struct{ *testBroker }

func (b *hangingBroker) Publish(string, ...*message.Message) error {
	<-time.After(time.Second)
	return errBrokerAway
}

// TestDeadLettersNotTaken: while the broker takes no dead letters, their messages
// stay, others go on, no more than so many are held, and one line tells of it.
func TestDeadLettersNotTaken(t *testing.T) {
	t.Parallel()
	r := accountRig(t, SQLite)
	log, broker := newLogCount(), newTestBroker()
	r.cfg.Logger, r.cfg.Now = slog.New(log), time.Now
	broker.setRefuse(func(string, *message.Message) error { return errBrokerAway })
	run := r.start(t, broker, broker)
	const some = maxHeld / 2
	for i := range some {
		broker.deliver(django("garbage"), save(i, 1, "x"))
	}
	run.awaitAcked(t, some)
	for range 2 * some {
		broker.deliver(django("garbage"))
	}
	eventually(t, "there is no room any more", func() bool { return r.Stats().Stuck == maxHeld })
	if acked, nacked := broker.counts(); acked != some || nacked != 0 {
		t.Errorf("%d acknowledged and %d given back, want %d and 0", acked, nacked, some)
	}
	broker.setRefuse(nil)
	run.awaitAcked(t, 4*some)
	if s := r.Stats(); s.Pauses != 1 || s.Dead != 3*some || s.Stuck != 0 || !s.PausedSince.IsZero() {
		t.Errorf("have %+v, want all dead after one pause", s)
	}
	if said := log.count("the broker does not take a retry or dead letter: its message stays unacknowledged"); said != 1 {
		t.Errorf("said %d times, want once", said)
	}
}

// TestSlowDatabase: where the time of a transaction is not enough for a batch, it
// becomes smaller ones; else the same batch would be tried for ever.
func TestSlowDatabase(t *testing.T) {
	t.Parallel()
	for d, ddl := range map[Dialect][]string{
		Postgres: {`CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$`, `CREATE TRIGGER slow BEFORE INSERT OR UPDATE ON account_ref FOR EACH ROW EXECUTE FUNCTION slow()`},
		MySQL:    {`CREATE TRIGGER slow BEFORE INSERT ON account_ref FOR EACH ROW SET @x = SLEEP(0.02)`},
	} {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, d, map[string]Table{"account": {Name: "account_ref", Columns: accountColumns}}, append([]string{accountTable}, ddl...)...)
			// An attempt that was cut off costs its connection: one has to be made within the time, too.
			r.cfg.Now, r.cfg.TransactionTimeout = time.Now, time.Second
			broker := newTestBroker()
			for i := range 200 {
				broker.deliver(save(i, 1, "x"))
			}
			run := r.start(t, broker, broker)
			run.awaitAcked(t, 200)
			if s := r.Stats(); s.Applied != 200 || s.Batches < 4 || s.Pauses == 0 {
				t.Errorf("have %+v, want all applied in several transactions, after a pause", s)
			}
		})
	}
}

// TestUniqueValueChangesHands: a message whose unique value another row holds is
// applied as soon as that row has given it up, is a dead letter when it never does,
// and hinders no other. The broker delays nothing, so failed ones wait in memory.
func TestUniqueValueChangesHands(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		db := openDB(t, d, `CREATE TABLE account_ref (id bigint PRIMARY KEY, title varchar(100) NOT NULL UNIQUE, note text, cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL)`)
		r := rigOn(t, db, map[string]Table{"account": {Name: "account_ref", Columns: accountColumns, MaxRetries: 5, RetryDelay: 100 * time.Millisecond}})
		r.cfg.Now = time.Now
		broker := newTestBroker()
		broker.requeue = true
		run := r.start(t, undelayed{broker, broker, broker}, broker)
		broker.deliver(save(1, 1, "one"), save(2, 1, "two"))
		run.awaitAcked(t, 2)
		broker.deliver(save(3, 1, "one"), save(4, 1, "two"), save(5, 1, "five"))
		eventually(t, "some are retried", func() bool { return r.Stats().Retried >= 2 })
		broker.deliver(save(1, 2, "uno"))
		eventually(t, "settled", func() bool { s := r.Stats(); return s.Dead == 1 && s.Applied == 5 })
		if diff := cmp.Diff([]string{"id=1 title=uno", "id=2 title=two", "id=3 title=one", "id=5 title=five"}, r.titles(t)); diff != "" {
			t.Errorf("rows (-want +have):\n%s", diff)
		}
	})
}

// undelayed is a broker that keeps nothing for later.
type undelayed struct {
	message.Publisher
	message.Subscriber
	Binder
}

func (b undelayed) Close() error { return b.Publisher.Close() }

// TestRolledBackByAStatement: on SQLite a constraint, or a trigger, may undo the whole
// transaction. Neither the messages before it nor those behind are lost, whether they
// save or delete, and nothing is written without its transaction.
func TestRolledBackByAStatement(t *testing.T) {
	t.Parallel()
	for name, ddl := range map[string]struct{ table, trigger string }{
		"constraint": {strings.Replace(accountTable, "title text NOT NULL", "title text NOT NULL CONSTRAINT one UNIQUE ON CONFLICT ROLLBACK", 1), ""},
		"trigger": {accountTable, `CREATE TRIGGER no BEFORE UPDATE ON account_ref FOR EACH ROW
			WHEN EXISTS (SELECT 1 FROM account_ref WHERE title = NEW.title AND id <> NEW.id) BEGIN SELECT RAISE(ROLLBACK, 'no'); END`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, SQLite, map[string]Table{"account": {Name: "account_ref", Columns: accountColumns}}, ddl.table)
			if ddl.trigger != "" {
				mustExec(t, r.db, ddl.trigger)
			}
			r.batch(t, save(1, 1, "one"), save(2, 1, "two"), save(3, 1, "three"))
			res := r.batch(t, save(4, 1, "four"), remove(3, 2), save(1, 2, "two"), save(5, 1, "five"))
			if len(res.failures) != 1 || res.failures[0].in.key != "1" || res.applied != 3 {
				t.Errorf("have %d applied and the failures %v, want 3 and that of key 1", res.applied, res.failures)
			}
			if diff := cmp.Diff([]string{"id=1 title=one", "id=2 title=two", "id=4 title=four", "id=5 title=five"}, r.titles(t)); diff != "" {
				t.Errorf("rows (-want +have):\n%s", diff)
			}
			if diff := cmp.Diff([]string{"key=3 revision=2"}, dump(t, r.db, "SELECT key, revision FROM replica_tombstones")); diff != "" {
				t.Errorf("tombstones (-want +have):\n%s", diff)
			}
		})
	}
}

// TestHandlerIsRolledBack: a handler whose transaction a trigger has undone has
// failed, whether it says so or not, and leaves no note that its event was seen.
func TestHandlerIsRolledBack(t *testing.T) {
	t.Parallel()
	for _, hides := range []bool{false, true} {
		r, run := runAuthors(t, SQLite, Config{}, func(ctx context.Context, tx Tx, ev Event[author]) error {
			if err := logAuthor(ctx, tx, ev); !hides {
				return err
			}
			return nil
		}, HandlerOptions{MaxRetries: NoRetries})
		mustExec(t, r.db, `CREATE TRIGGER no BEFORE INSERT ON author_log FOR EACH ROW WHEN NEW.name = 'bad' BEGIN SELECT RAISE(ROLLBACK, 'no'); END`)
		run.broker.deliver(authorEvent("SAVE", 1, 1, "bad"), authorEvent("SAVE", 2, 1, "good"))
		run.deadLetter(t)
		run.awaitAcked(t, 2)
		if s := r.Stats(); s.Applied != 1 || s.Pauses != 0 {
			t.Errorf("hides %t: have %+v, want 1 applied and no pause", hides, s)
		}
		if diff := cmp.Diff([]string{"key=2"}, dump(t, r.db, "SELECT key FROM replica_inbox")); diff != "" {
			t.Errorf("hides %t: seen (-want +have):\n%s", hides, diff)
		}
	}
}

// TestHandlerUsesSavepoints: a handler may undo a part of its work.
func TestHandlerUsesSavepoints(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		r, run := runAuthors(t, d, Config{}, func(ctx context.Context, tx Tx, ev Event[author]) error {
			var errs []error
			do := func(query string) {
				_, err := tx.ExecContext(ctx, query)
				errs = append(errs, err)
			}
			do("SAVEPOINT part")
			errs = append(errs, logAuthor(ctx, tx, ev))
			if _, err := tx.ExecContext(ctx, "INSERT INTO author_log (id, kind, revision) VALUES (1, NULL, 1)"); err == nil {
				errs = append(errs, errors.New("the constraint is gone"))
			}
			do("ROLLBACK TO SAVEPOINT part")
			ev.Data.Name = "instead"
			errs = append(errs, logAuthor(ctx, tx, ev))
			do("RELEASE SAVEPOINT part")
			return errors.Join(errs...)
		}, HandlerOptions{MaxRetries: NoRetries})
		run.broker.deliver(authorEvent("SAVE", 1, 1, "undone"))
		run.awaitAcked(t, 1)
		if diff := cmp.Diff([]string{"kind=create id=1 name=instead revision=1"}, r.authorLog(t)); diff != "" || r.Stats().Applied != 1 {
			t.Errorf("%+v, log (-want +have):\n%s", r.Stats(), diff)
		}
	})
}
