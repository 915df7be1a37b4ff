package outbox_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/outbox"
)

// refuse makes the database refuse to raise the revision of one row.
func (m master) refuse(t *testing.T, id int) {
	t.Helper()
	if m.dialect == outbox.SQLite {
		m.exec(t, fmt.Sprintf(`CREATE TRIGGER refuse BEFORE UPDATE ON accounts WHEN NEW.id = %d BEGIN SELECT RAISE(ABORT, 'not this one'); END`, id))
		return
	}
	if m.dialect == outbox.MySQL {
		m.exec(t, fmt.Sprintf(`CREATE TRIGGER refuse BEFORE UPDATE ON accounts FOR EACH ROW
			IF NEW.id = %d THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not this one'; END IF`, id))
		return
	}
	m.exec(t, fmt.Sprintf(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN IF NEW.id = %d THEN RAISE EXCEPTION 'not this one'; END IF; RETURN NEW; END $$`, id))
	m.exec(t, `CREATE TRIGGER refuse BEFORE UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION refuse()`)
}

// One bad row of many fails the flush, which rolls everything back and names it.
func TestTheCulpritIsNamed(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.refuse(t, 1234)
		tracked := m.account(t, outbox.Entity{Tracked: []string{"name"}})
		for name, ob := range map[string]*outbox.Outbox{"direct": m.ob, "here": tracked.ob} {
			for n, want := range map[int][]string{3000: {"1234"}, 1: {"1234"}, 3: {"1234"}, 2: {"1234"}} {
				err := ob.InTx(t.Context(), m.DB, func(ctx context.Context, tx *outbox.Tx) error {
					keys := make([]any, n)
					for i := range keys {
						keys[i] = 1234 - n/2 + i
						if n == 3000 {
							keys[i] = i + 1
						}
					}
					return errors.Join(exec(ctx, tx, `INSERT INTO accounts (id, name) SELECT i, 'x' FROM `+m.numbers(3000)), tx.Saved("account", keys...))
				})
				var row *outbox.RowError
				if !errors.As(err, &row) || row.Entity != "account" || cmp.Diff(want, row.Keys) != "" || !strings.Contains(err.Error(), "not this one") {
					t.Errorf("%s, %d keys: %v, want a RowError that names account and %v", name, n, err, want)
				}
				m.wantSent(t)
				m.wantAccounts(t, 0)
			}
		}
	})
}

// What is no key of the column's type is named before the database is asked.
func TestBadKeysAmongMany(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		if m.dialect == outbox.SQLite {
			return // takes any text, and finds no row
		}
		m.exec(t, `CREATE TABLE things (id uuid PRIMARY KEY)`)
		m.addVersions(t, "things")
		m.exec(t, `INSERT INTO accounts (id, name) VALUES (1, 'x')`)
		m.ob = m.outbox(t, outbox.Entity{ID: "account", Table: "accounts"}, outbox.Entity{ID: "thing", Table: "things"})
		for key, entity := range map[any]string{"abc": "account", "1; DROP TABLE accounts": "account", 1 << 40: "account", "": "account", "123e4567": "thing", "\x00": "account"} {
			for _, keys := range [][]any{{key}, {1, key}} {
				err := m.ob.InTx(t.Context(), m.DB, func(_ context.Context, tx *outbox.Tx) error { return tx.Saved(entity, keys[len(keys)-1:]...) })
				var row *outbox.RowError
				if !errors.As(err, &row) || !errors.Is(err, outbox.ErrKey) || row.Entity != entity || row.Keys[0] != fmt.Sprint(key) || row.Column != "id" {
					t.Errorf("key %q: %v, want ErrKey in a RowError that names it", key, err)
				}
			}
		}
		m.wantSent(t)
	})
}

func TestPayloadLimit(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		const limit = 5000
		m.exec(t, `INSERT INTO accounts (id, name) VALUES (1, 'small'), (2, 'large')`)
		m.exec(t, `UPDATE accounts SET name = `+map[outbox.Dialect]string{outbox.Postgres: `repeat('é', 4000)`, outbox.MySQL: `repeat('é', 4000)`, outbox.SQLite: `printf('%.4000c', 'x')`}[m.dialect]+` WHERE id = 2`)
		e := outbox.Entity{ID: "account", Table: "accounts"}
		bytes := map[outbox.Dialect]int64{outbox.Postgres: 8000, outbox.MySQL: 8000, outbox.SQLite: 4000}[m.dialect]
		if m.dialect == outbox.SQLite {
			m.exec(t, `UPDATE accounts SET name = name || name WHERE id = 2`)
			bytes = 8000
		}
		for _, tracked := range [][]string{nil, {"name"}} {
			e.Tracked = tracked
			limited := m.with(t, outbox.Config{Entities: []outbox.Entity{e}, MaxPayload: limit})
			for _, keys := range [][]any{{2}, {1, 2}} {
				err := limited.ob.InTx(t.Context(), m.DB, func(ctx context.Context, tx *outbox.Tx) error {
					return errors.Join(tx.Track(ctx, "account", keys...), tx.Saved("account", keys...))
				})
				var large *outbox.PayloadError
				if !errors.As(err, &large) || large.Entity != "account" || large.Key != "2" || large.Limit != limit || large.Size < bytes || large.Size > bytes+500 {
					t.Errorf("keys %v, tracked %v: %v, want a PayloadError that names account/2, its size and the limit", keys, tracked, err)
				}
				if err != nil && !strings.Contains(err.Error(), "Config.MaxPayload") {
					t.Errorf("%v does not name its remedy", err)
				}
			}
		}
		m.wantSent(t)
		m = m.with(t, outbox.Config{Entities: []outbox.Entity{e}, MaxPayload: 10_000})
		m.save(t, `SELECT 1`, 1)
	})
	if _, err := outbox.New(outbox.Config{Dialect: outbox.SQLite, MaxPayload: -1, Entities: []outbox.Entity{{ID: "a", Table: "t"}}}); err == nil || !strings.Contains(err.Error(), "Config.MaxPayload is -1") {
		t.Errorf("a negative limit: %v", err)
	}
}

// A row of 100 MB is refused by the default limit, and nothing of its transaction stays.
func TestHugeRow(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		const size = 100_000_000
		m.exec(t, `INSERT INTO accounts (id, name) VALUES (1, 'x')`)
		huge := map[outbox.Dialect]string{
			outbox.Postgres: `repeat('x', 100000000)`, outbox.MySQL: `repeat('x', 15000000)`, outbox.SQLite: `printf('%.100000000c', 'x')`,
		}[m.dialect]
		least := int64(size)
		if m.dialect == outbox.MySQL { // its own max_allowed_packet, 16 MiB by default, refuses more
			least = 15_000_000
			m.exec(t, `ALTER TABLE accounts MODIFY name longtext`)
			m = m.with(t, outbox.Config{Entities: []outbox.Entity{{ID: "account", Table: "accounts"}}, MaxPayload: 10 << 20})
		}
		err := m.ob.InTx(t.Context(), m.DB, func(ctx context.Context, tx *outbox.Tx) error {
			return errors.Join(exec(ctx, tx, `UPDATE accounts SET name = `+huge+` WHERE id = 1`), tx.Saved("account", 1))
		})
		var large *outbox.PayloadError
		if !errors.As(err, &large) || large.Key != "1" || large.Size < least {
			t.Errorf("%.300v, want a PayloadError", err)
		}
		m.wantSent(t)
		var name string
		if err := m.QueryRow(`SELECT name FROM accounts WHERE id = 1`).Scan(&name); err != nil || name != "x" {
			t.Errorf("the row holds %.10q, %v, want what it held before", name, err)
		}
	})
}

// Panics of an entity's functions come out as they are, and leave nothing.
func TestPanicsInFunctions(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		for name, e := range map[string]outbox.Entity{
			"Serialize":  {Serialize: func(context.Context, *outbox.Tx, []outbox.Instance) (map[string]any, error) { panic("boom") }},
			"Meta":       {Meta: func(context.Context, outbox.Instance) (map[string]any, error) { panic("boom") }},
			"DeleteData": {DeleteData: func(context.Context, *outbox.Tx, []outbox.Instance) (map[string]any, error) { panic("boom") }},
		} {
			func() {
				defer func() {
					if have := recover(); have != "boom" {
						t.Errorf("%s: recovered %v, want its own panic", name, have)
					}
				}()
				_ = m.account(t, e).ob.InTx(t.Context(), m.DB, func(ctx context.Context, tx *outbox.Tx) error {
					err := errors.Join(exec(ctx, tx, `INSERT INTO accounts (id, name) VALUES (1, 'x'), (2, 'y')`), tx.Saved("account", 1))
					if name == "DeleteData" {
						return errors.Join(err, tx.Delete(ctx, "account", 2))
					}
					return err
				})
			}()
			m.wantSent(t)
			m.wantAccounts(t, 0)
		}
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error { // the pool's connections are all right
			return errors.Join(exec(ctx, tx, `INSERT INTO accounts (id, name) VALUES (1, 'x')`), tx.Saved("account", 1))
		})
		m.wantAccounts(t, 1)
	})
}

// A context that ends, in the function or while events are made, rolls back.
func TestCanceled(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		for _, when := range []string{"in the function", "in Serialize"} {
			ctx, cancel := context.WithCancel(t.Context())
			m := m
			if when == "in Serialize" {
				m = m.account(t, outbox.Entity{Serialize: func(_ context.Context, _ *outbox.Tx, rows []outbox.Instance) (map[string]any, error) {
					cancel()
					return map[string]any{rows[0].Key: map[string]any{"id": 1}}, nil
				}})
			}
			err := m.ob.InTx(ctx, m.DB, func(ctx context.Context, tx *outbox.Tx) error {
				err := errors.Join(exec(ctx, tx, `INSERT INTO accounts (id, name) VALUES (1, 'x')`), tx.Saved("account", 1))
				if when == "in the function" {
					cancel()
				}
				return err
			})
			cancel()
			if !errors.Is(err, context.Canceled) {
				t.Errorf("canceled %s: %v, want context.Canceled", when, err)
			}
			m.wantSent(t)
			m.wantAccounts(t, 0)
		}
	})
}

// A context may end between two statements, or before the commit. database/sql
// rolls back then, and says of what comes after that the transaction is over.
func TestCanceledBetweenStatements(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		ctx, cancel := context.WithCancelCause(t.Context())
		errStopped := errors.New("stopped")
		err := m.ob.InTx(ctx, m.DB, func(ctx context.Context, tx *outbox.Tx) error {
			cancel(errStopped)
			for range 50 { // until database/sql notices; a session of the outbox is looked at before its commit
				if err := exec(context.WithoutCancel(ctx), tx, `UPDATE accounts SET name = name`); err != nil {
					return err
				}
				<-time.After(2 * time.Millisecond)
			}
			return nil
		})
		if !errors.Is(err, context.Canceled) || !errors.Is(err, errStopped) {
			t.Errorf("InTx: %v, want that its context was canceled, and why", err)
		}
	})
	t.Run("before a Sync commits", func(t *testing.T) {
		t.Parallel()
		db, dsn := testdb.Postgres(t)
		m := newMaster(t, db, outbox.Postgres)
		m.fill(t, 3)
		ctx, cancel := context.WithCancel(t.Context())
		through := testdb.Wrapped(t, db, dsn, func(conn testdb.Conn) driver.Conn {
			return hookedConn{conn, func(statement string) {
				if strings.Contains(statement, "INSERT INTO outbox") {
					cancel()
					<-time.After(100 * time.Millisecond) // database/sql notices
				}
			}}
		})
		if _, err := m.ob.Sync(ctx, through, "account", outbox.All, ""); !errors.Is(err, context.Canceled) {
			t.Errorf("Sync: %v, want context.Canceled", err)
		}
		if ctx.Err() == nil {
			t.Error("nothing was canceled: the test shows nothing")
		}
		m.wantSent(t)
	})
}

// hookedConn calls a function after each statement.
type hookedConn struct {
	testdb.Conn
	after func(statement string)
}

func (c hookedConn) ExecContext(ctx context.Context, statement string, args []driver.NamedValue) (driver.Result, error) {
	defer c.after(statement)
	return c.Conn.Conn.(driver.ExecerContext).ExecContext(ctx, statement, args)
}

// Names with what ends names, or with what no name has, are not found or refused.
func TestInjectionInNames(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		for _, name := range []string{`accounts"; DROP TABLE accounts; --`, `accounts'; DROP TABLE accounts; --`, "accounts\x00x", `acc"ounts`, "accounts.", `a.b.c.d`, "`accounts`", `accounts\`} {
			for what, e := range map[string]outbox.Entity{
				"Table": {ID: "account", Table: name}, "Key": {ID: "account", Table: "accounts", Key: name},
				"Fields":  {ID: "account", Table: "accounts", Fields: []string{"id", name}},
				"Tracked": {ID: "account", Table: "accounts", Tracked: []string{name}},
				"Keys":    {ID: "account", Table: "accounts", Keys: []string{"id", name}},
			} {
				ob, err := outbox.New(outbox.Config{Dialect: m.dialect, Entities: []outbox.Entity{e}})
				if err == nil {
					err = ob.Check(t.Context(), m.DB)
				}
				if err == nil || !strings.Contains(err.Error(), "entity account") {
					t.Errorf("%s %q: %v, want a fault of entity account", what, name, err)
				}
			}
		}
		m.exec(t, `INSERT INTO accounts (id, name) VALUES (1, 'x')`)
		for _, id := range []string{`a'||'b`, `a";--`, `a\'b`, `{table}`, `a''b\`} { // odd, and brokers take it
			m := m.with(t, outbox.Config{Entities: []outbox.Entity{{ID: id, Table: "accounts"}}})
			m.inTx(t, func(_ context.Context, tx *outbox.Tx) error { return tx.Saved(id, 1) })
			all := m.events(t)
			if last := all[len(all)-1]; last.CQRSID != id {
				t.Errorf("CQRS ID %q is sent as %q", id, last.CQRSID)
			}
		}
		m.wantAccounts(t, 1)
	})
}

// Text that is none in JSON is not changed in silence.
func TestValuesThatJSONCannotCarry(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		if m.dialect != outbox.SQLite {
			return // takes no such text
		}
		m.exec(t, `INSERT INTO accounts (id, name) VALUES (1, 'good'), (2, CAST(x'ff' AS TEXT))`)
		err := m.ob.InTx(t.Context(), m.DB, func(_ context.Context, tx *outbox.Tx) error { return tx.Saved("account", 1, 2) })
		var row *outbox.RowError
		if !errors.As(err, &row) || row.Keys[0] != "2" || row.Column != "name" {
			t.Errorf("%v, want a RowError that names 2 and name", err)
		}
		m.wantSent(t)
	})
}

// A key may be too long to be repeated in an error.
func TestLongKeysInErrors(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.exec(t, `CREATE TABLE things (id TEXT PRIMARY KEY)`)
		m.addVersions(t, "things")
		m.ob = m.outbox(t, outbox.Entity{ID: "thing", Table: "things"})
		key := strings.Repeat("é", 1<<20)
		err := m.ob.InTx(t.Context(), m.DB, func(_ context.Context, tx *outbox.Tx) error { return tx.Saved("thing", key) })
		var missing *outbox.NotFoundError
		if !errors.As(err, &missing) || missing.Keys[0] != key {
			t.Fatal("want a NotFoundError with the whole key")
		}
		if text := err.Error(); len(text) > 500 || !strings.Contains(text, "outbox: thing/éé") {
			t.Errorf("its text has %d bytes: %.300s", len(text), text)
		}
	})
}
