package outbox_test

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"testing"

	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/outbox"
)

// single is a master whose pool has one connection, so that what a session has
// prepared can be seen, and one that needs a second one while it holds the first
// waits for ever.
func single(t *testing.T) master {
	t.Helper()
	db, _ := testdb.Postgres(t)
	m := newMaster(t, db, outbox.Postgres)
	m.SetMaxOpenConns(1)
	m.exec(t, `INSERT INTO accounts (id, name) VALUES (1, 'ann')`)
	return m
}

const raiseBalance = `UPDATE accounts SET balance = balance + $1 WHERE id = $2`

func (m master) raise(ctx context.Context, ob *outbox.Outbox) error {
	return ob.InTx(ctx, m.DB, func(ctx context.Context, tx *outbox.Tx) error {
		if _, err := tx.ExecContext(ctx, raiseBalance, 1, 1); err != nil {
			return err
		}
		return tx.Saved("account", 1)
	})
}

// prepared counts the statements that the session has prepared.
func (m master) prepared(t *testing.T, like string) (n int) {
	t.Helper()
	if err := m.QueryRowContext(t.Context(), `SELECT count(*) FROM pg_prepared_statements WHERE strpos(statement, '`+like+`') > 0`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestStatementsThatAreUsedAgainArePrepared(t *testing.T) {
	t.Parallel()
	m := single(t)
	for range 5 {
		if err := m.raise(t.Context(), m.ob); err != nil {
			t.Fatal(err)
		}
	}
	if have := m.prepared(t, "UPDATE accounts SET balance"); have != 1 {
		t.Errorf("the caller's statement is prepared %d times, want once", have)
	}
	if have := m.prepared(t, "lockstep_changed"); have != 1 {
		t.Errorf("the flush is prepared %d times, want once", have)
	}
	if have := len(m.sent(t)); have != 5 {
		t.Errorf("have %d events, want 5", have)
	}
}

func TestUnprepared(t *testing.T) {
	t.Parallel()
	m := single(t)
	ob, err := outbox.New(outbox.Config{Dialect: m.dialect, Unprepared: true, Entities: []outbox.Entity{{ID: "account", Table: "accounts"}}})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := m.raise(t.Context(), ob); err != nil {
			t.Fatal(err)
		}
	}
	if have := m.prepared(t, "accounts"); have != 0 {
		t.Errorf("%d statements are prepared, want none", have)
	}
}

// TestPreparedStatementsThatBreak: what a pooler or an altered table does to a
// prepared statement costs the transaction that finds out, and no other.
func TestPreparedStatementsThatBreak(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, sql, remedy string }{
		{"forgotten by the server", `DEALLOCATE ALL`, "set Config.Unprepared"},
		{"other type of a parameter", `ALTER TABLE accounts ALTER COLUMN balance TYPE numeric`, ""},
		{"new column", `ALTER TABLE accounts ADD COLUMN note text`, ""},
		{"other type of the key", `ALTER TABLE accounts ALTER COLUMN id TYPE bigint`, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m := single(t)
			for range 4 {
				if err := m.raise(t.Context(), m.ob); err != nil {
					t.Fatal(err)
				}
			}
			m.exec(t, tc.sql)
			failed := 0
			for range 10 {
				if err := m.raise(t.Context(), m.ob); err != nil {
					failed++
					if have := strings.Contains(err.Error(), "set Config.Unprepared"); have != (tc.remedy != "") {
						t.Errorf("%v: want the remedy %q", err, tc.remedy)
					}
				}
			}
			if failed > 2 { // one for each statement
				t.Errorf("%d transactions failed, want at most two", failed)
			}
			if have, want := len(m.sent(t)), 14-failed; have != want {
				t.Errorf("have %d events, want %d", have, want)
			}
		})
	}
}

func TestPreparedStatementsAreBounded(t *testing.T) {
	t.Parallel()
	m := single(t)
	for range 3 {
		for i := range 300 {
			err := m.ob.InTx(t.Context(), m.DB, func(ctx context.Context, tx *outbox.Tx) error {
				_, err := tx.ExecContext(ctx, strings.Replace(raiseBalance, "balance +", fmt.Sprintf("balance + %d +", i), 1), 1, 1)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 3 { // those of a flush count, too
		if err := m.raise(t.Context(), m.ob); err != nil {
			t.Fatal(err)
		}
	}
	if have := m.prepared(t, "accounts"); have == 0 || have > 256 {
		t.Errorf("%d statements are prepared, want some, and 256 at most", have)
	}
	if have := len(m.sent(t)); have != 3 {
		t.Errorf("have %d events, want 3", have)
	}
}

// TestATransactionThatHasFailed: a failure that the function keeps to itself does
// not pass for a commit.
func TestATransactionThatHasFailed(t *testing.T) {
	t.Parallel()
	m := single(t)
	for _, saved := range []bool{false, true} {
		err := m.ob.InTx(t.Context(), m.DB, func(ctx context.Context, tx *outbox.Tx) error {
			if _, err := tx.ExecContext(ctx, raiseBalance, 1, 1); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `SELECT 1/$1::int`, 0); err == nil {
				t.Error("1/0 is no error")
			}
			if saved {
				return tx.Saved("account", 1)
			}
			return nil
		})
		if err == nil {
			t.Error("InTx returned nil for a transaction that PostgreSQL had given up")
		}
	}
	if err := m.raise(t.Context(), m.ob); err != nil {
		t.Error(err)
	}
	if have := len(m.sent(t)); have != 1 {
		t.Errorf("have %d events, want the last one only", have)
	}
}

// TestConnectionsThatDied: the pool's connections are dead after a restart of the
// server, and no transaction fails for it.
func TestConnectionsThatDied(t *testing.T) {
	t.Parallel()
	db, dsn := testdb.Postgres(t)
	m := newMaster(t, db, outbox.Postgres)
	const n = 6
	m.SetMaxIdleConns(n)
	m.exec(t, `INSERT INTO accounts (id, name) VALUES (1, 'ann')`)
	var pids []int
	var conns []*sql.Conn
	for range n {
		conn, err := m.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
		var pid int
		if err := conn.QueryRowContext(t.Context(), `SELECT pg_backend_pid()`).Scan(&pid); err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	killer, err := sql.Open("postgres", dsn)
	if err != nil {
		t.Fatal(err)
	}
	for i, conn := range conns {
		_ = conn.Close()
		if _, err := killer.ExecContext(t.Context(), `SELECT pg_terminate_backend($1, 60000)`, pids[i]); err != nil {
			t.Fatal(err)
		}
	}
	_ = killer.Close()
	for range n + 2 {
		if err := m.raise(t.Context(), m.ob); err != nil {
			t.Error(err)
		}
	}
}

// TestStatementsOfTwoOutboxes share a connection without getting in each other's way.
func TestStatementsOfTwoOutboxes(t *testing.T) {
	t.Parallel()
	m := single(t)
	other := m.outbox(t, outbox.Entity{ID: "account", Table: "accounts", Fields: []string{"id", "balance"}})
	for range 4 {
		if err := m.raise(t.Context(), m.ob); err != nil {
			t.Fatal(err)
		}
		if err := m.raise(t.Context(), other); err != nil {
			t.Fatal(err)
		}
	}
	if have := len(m.sent(t)); have != 8 {
		t.Errorf("have %d events, want 8", have)
	}
}

// A statement takes the same arguments when it is prepared.
func TestArgumentsOfPreparedStatements(t *testing.T) {
	t.Parallel()
	m := single(t)
	name := "bob"
	for i := range 4 {
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
			_, err := tx.ExecContext(ctx, `UPDATE accounts SET balance = $1, name = $2 WHERE id = $3`,
				sql.NullInt64{Int64: int64(i), Valid: true}, &name, sql.Named("id", 1))
			return err
		})
	}
}
