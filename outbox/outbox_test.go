package outbox_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/outbox"
)

// master is a migrated database with a table of accounts.
type master struct {
	*sql.DB
	dialect outbox.Dialect
	ob      *outbox.Outbox
}

// textKeys spells texts that are keys as MySQL can have them.
var textKeys = strings.NewReplacer("TEXT PRIMARY KEY", mysqlTextKey+" PRIMARY KEY", "region TEXT", "region "+mysqlTextKey,
	"number TEXT", "number "+mysqlTextKey, "id CHAR(3)", "id CHAR(3) COLLATE utf8mb4_bin")

const mysqlTextKey = "varchar(100) COLLATE utf8mb4_bin"

// onEach runs a test on every database.
func onEach(t *testing.T, test func(t *testing.T, m master)) {
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		db, _ := testdb.Postgres(t)
		test(t, newMaster(t, db, outbox.Postgres))
	})
	t.Run("mysql", func(t *testing.T) {
		t.Parallel()
		db, _ := testdb.MariaDB(t)
		test(t, newMaster(t, db, outbox.MySQL))
	})
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		db, _ := testdb.SQLite(t)
		test(t, newMaster(t, db, outbox.SQLite))
	})
}

func newMaster(t testing.TB, db *sql.DB, d outbox.Dialect) master {
	t.Helper()
	if _, err := migrations.Up(t.Context(), db, d); err != nil {
		t.Fatal(err)
	}
	m := master{DB: db, dialect: d}
	m.exec(t, `CREATE TABLE accounts (id INTEGER PRIMARY KEY, name TEXT NOT NULL, balance INTEGER NOT NULL DEFAULT 0)`)
	m.addVersions(t, "accounts")
	m.ob = m.outbox(t, outbox.Entity{ID: "account", Table: "accounts"})
	return m
}

// addVersions adds the version columns to a table.
func (m master) addVersions(t testing.TB, table string) {
	t.Helper()
	lines, err := migrations.TableSQL(m.dialect, table)
	if err != nil {
		t.Fatal(err)
	}
	m.exec(t, lines)
}

func (m master) outbox(t testing.TB, entities ...outbox.Entity) *outbox.Outbox {
	t.Helper()
	ob, err := outbox.New(outbox.Config{Dialect: m.dialect, Entities: entities})
	if err != nil {
		t.Fatal(err)
	}
	if err := ob.Check(t.Context(), m.DB); err != nil {
		t.Fatal(err)
	}
	return ob
}

func (m master) exec(t testing.TB, query string) {
	t.Helper()
	if m.dialect == outbox.MySQL && strings.HasPrefix(query, "CREATE TABLE") {
		query = textKeys.Replace(query)
	}
	if _, err := m.ExecContext(t.Context(), query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func (m master) inTx(t *testing.T, fn func(ctx context.Context, tx *outbox.Tx) error) {
	t.Helper()
	if err := m.ob.InTx(t.Context(), m.DB, fn); err != nil {
		t.Fatal(err)
	}
}

// sent is an outbox row with its body decoded, without what differs each time.
type sent struct {
	Topic, Key string
	Signal     event.Signal
	Revision   int64
	Name       any
}

func (m master) sent(t *testing.T) (all []sent) {
	t.Helper()
	for _, row := range m.rows(t) {
		e, err := event.Decode(row.payload)
		if err != nil {
			t.Fatalf("payload %s: %v", row.payload, err)
		}
		version, err := e.Version()
		if err != nil {
			t.Fatalf("payload %s: %v", row.payload, err)
		}
		var data map[string]any
		if err := json.Unmarshal(e.Data, &data); err != nil {
			t.Fatal(err)
		}
		all = append(all, sent{row.topic, row.key, e.Signal, version.Revision, data["name"]})
	}
	return all
}

type outboxRow struct {
	id         int64
	topic, key string
	payload    []byte
	metadata   string
}

func (m master) rows(t *testing.T) (all []outboxRow) {
	t.Helper()
	rows, err := m.QueryContext(t.Context(), `SELECT id, topic, "key", payload, metadata FROM outbox ORDER BY id`)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var r outboxRow
		if err := rows.Scan(&r.id, &r.topic, &r.key, &r.payload, &r.metadata); err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func (m master) wantSent(t *testing.T, want ...sent) {
	t.Helper()
	if diff := cmp.Diff(want, m.sent(t)); diff != "" {
		t.Errorf("events in the outbox (-want +have):\n%s", diff)
	}
}

func exec(ctx context.Context, tx *outbox.Tx, query string) error {
	_, err := tx.ExecContext(ctx, query)
	return err
}

func TestManySavesGiveOneEventOfTheFinalRow(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
			return errors.Join(
				exec(ctx, tx, `INSERT INTO accounts (id, name) VALUES (1, 'first')`), tx.Saved("account", 1),
				exec(ctx, tx, `UPDATE accounts SET name = 'second'`), tx.Saved("account", 1),
				exec(ctx, tx, `UPDATE accounts SET name = 'third'`), // after the last mark, still in the transaction
			)
		})
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
			return errors.Join(exec(ctx, tx, `UPDATE accounts SET name = 'fourth'`), tx.Saved("account", 1))
		})
		m.wantSent(t,
			sent{"account", "1", event.Save, 1, "third"},
			sent{"account", "1", event.Save, 2, "fourth"})
	})
}

func TestKeysAndEntitiesKeepTheOrderOfTheirMarks(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.exec(t, `CREATE TABLE authors (id TEXT PRIMARY KEY, name TEXT, cqrs_revision BIGINT NOT NULL DEFAULT 0, cqrs_updated `+
			map[outbox.Dialect]string{outbox.Postgres: "timestamptz", outbox.MySQL: "datetime(6)", outbox.SQLite: "TEXT"}[m.dialect]+` NOT NULL DEFAULT CURRENT_TIMESTAMP)`)
		m.ob = m.outbox(t, outbox.Entity{ID: "account", Table: "accounts"}, outbox.Entity{ID: "author", Table: "authors"})
		odd := map[bool]string{true: `'b"\\'`, false: `'b"\'`}[m.dialect == outbox.MySQL]
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
			return errors.Join(
				exec(ctx, tx, `INSERT INTO authors (id, name) VALUES (`+odd+`, 'B'), ('a', 'A')`), // a key that needs quoting twice
				exec(ctx, tx, `INSERT INTO accounts (id, name) VALUES (1, 'one'), (2, 'two'), (3, 'three')`),
				tx.Saved("author", `b"\`), tx.Saved("account", 3, 1), tx.Saved("author", "a"), tx.Saved("account", 1, 2))
		})
		m.wantSent(t,
			sent{"author", `b"\`, event.Save, 1, "B"}, sent{"author", "a", event.Save, 1, "A"},
			sent{"account", "3", event.Save, 1, "three"}, sent{"account", "1", event.Save, 1, "one"}, sent{"account", "2", event.Save, 1, "two"})
	})
}

func TestRollbackLeavesNothing(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		cause := errors.New("no funds")
		err := m.ob.InTx(t.Context(), m.DB, func(ctx context.Context, tx *outbox.Tx) error {
			return errors.Join(exec(ctx, tx, `INSERT INTO accounts (id, name) VALUES (1, 'x')`), tx.Saved("account", 1), tx.Flush(ctx), cause)
		})
		if !errors.Is(err, cause) {
			t.Errorf("InTx returned %v, want the function's own error", err)
		}
		func() {
			defer func() {
				if recover() != "boom" {
					t.Error("a panic did not come out of InTx as it was")
				}
			}()
			_ = m.ob.InTx(t.Context(), m.DB, func(ctx context.Context, tx *outbox.Tx) error {
				_ = errors.Join(exec(ctx, tx, `INSERT INTO accounts (id, name) VALUES (2, 'y')`), tx.Saved("account", 2), tx.Flush(ctx))
				panic("boom")
			})
		}()
		m.wantSent(t)
		m.wantAccounts(t, 0)
	})
}

func (m master) wantAccounts(t *testing.T, want int) {
	t.Helper()
	var have int
	if err := m.QueryRowContext(t.Context(), `SELECT count(*) FROM accounts`).Scan(&have); err != nil {
		t.Fatal(err)
	}
	if have != want {
		t.Errorf("%d accounts, want %d", have, want)
	}
}

func TestRevisionsNeverRestart(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		create := func(ctx context.Context, tx *outbox.Tx) error {
			return errors.Join(exec(ctx, tx, `INSERT INTO accounts (id, name) VALUES (1, 'x')`), tx.Saved("account", 1))
		}
		m.inTx(t, create)
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error { return tx.Delete(ctx, "account", 1) })
		m.inTx(t, create)
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
			return errors.Join(tx.Deleting(ctx, "account", 1), exec(ctx, tx, `DELETE FROM accounts`))
		})
		// Created without being sent, then deleted: the count goes on all the same.
		m.exec(t, `INSERT INTO accounts (id, name) VALUES (1, 'silent')`)
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error { return tx.Delete(ctx, "account", 1) })
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
			return errors.Join(create(ctx, tx), tx.Flush(ctx), tx.Delete(ctx, "account", 1), create(ctx, tx))
		})
		m.wantSent(t,
			sent{"account", "1", event.Save, 1, "x"}, sent{"account", "1", event.Delete, 2, nil},
			sent{"account", "1", event.Save, 3, "x"}, sent{"account", "1", event.Delete, 4, nil},
			sent{"account", "1", event.Delete, 5, nil},
			sent{"account", "1", event.Save, 6, "x"}, sent{"account", "1", event.Delete, 7, nil}, sent{"account", "1", event.Save, 8, "x"})
		m.wantAccounts(t, 1)
	})
}

func TestSaveAndDeleteGiveTheDelete(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
			return errors.Join(
				exec(ctx, tx, `INSERT INTO accounts (id, name) VALUES (1, 'x'), (2, 'stays')`),
				tx.Saved("account", 1, 2), tx.Delete(ctx, "account", 1))
		})
		m.wantSent(t, sent{"account", "1", event.Delete, 1, nil}, sent{"account", "2", event.Save, 1, "stays"})
	})
}

func TestMissingKeysAreNamed(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		for name, fn := range map[string]func(ctx context.Context, tx *outbox.Tx) error{
			"saved":    func(_ context.Context, tx *outbox.Tx) error { return tx.Saved("account", 1, 41, 42) },
			"delete":   func(ctx context.Context, tx *outbox.Tx) error { return tx.Delete(ctx, "account", 1, 41, 42) },
			"deleting": func(ctx context.Context, tx *outbox.Tx) error { return tx.Deleting(ctx, "account", 1, 41, 42) },
		} {
			err := m.ob.InTx(t.Context(), m.DB, func(ctx context.Context, tx *outbox.Tx) error {
				return errors.Join(exec(ctx, tx, `INSERT INTO accounts (id, name) VALUES (1, 'x')`), fn(ctx, tx))
			})
			var missing *outbox.NotFoundError
			if !errors.As(err, &missing) {
				t.Errorf("%s: error %v, want a NotFoundError", name, err)
				continue
			}
			if diff := cmp.Diff([]string{"41", "42"}, missing.Keys); diff != "" || missing.Entity != "account" {
				t.Errorf("%s: %s, keys (-want +have):\n%s", name, missing.Entity, diff)
			}
		}
		m.wantSent(t)
	})
}

func TestBadKeys(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		err := m.ob.InTx(t.Context(), m.DB, func(_ context.Context, tx *outbox.Tx) error {
			for _, key := range []any{nil, sql.NullInt64{}, (*string)(nil), []byte(nil), 1.5, struct{}{}} {
				if err := tx.Saved("account", key); !errors.Is(err, outbox.ErrKey) {
					t.Errorf("Saved(%#v) = %v, want ErrKey", key, err)
				}
			}
			if err := tx.Saved("acount", 1); !errors.Is(err, outbox.ErrUnknownEntity) || !strings.Contains(err.Error(), "account") {
				t.Errorf("unknown entity: %v, want ErrUnknownEntity that names those known", err)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestManyKeysInOneTransaction(t *testing.T) {
	t.Parallel()
	const n = 10_000
	onEach(t, func(t *testing.T, m master) {
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
			keys := make([]any, n)
			for i := range keys {
				keys[i] = n - i
			}
			return errors.Join(exec(ctx, tx, `INSERT INTO accounts (id, name) SELECT i, 'bulk' FROM `+m.numbers(n)), tx.Saved("account", keys...))
		})
		all := m.sent(t)
		if len(all) != n || all[0].Key != "10000" || all[n-1].Key != "1" {
			t.Fatalf("%d events from %v to %v, want %d in the order of the marks", len(all), all[0], all[len(all)-1], n)
		}
	})
}

func TestEventIDsAreUniqueAndInOrder(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
			return errors.Join(exec(ctx, tx, `INSERT INTO accounts (id, name) VALUES (1, 'a'), (2, 'b'), (3, 'c')`), tx.Saved("account", 2, 1, 3))
		})
		last := ""
		for _, row := range m.rows(t) {
			var metadata map[string]string
			if err := json.Unmarshal([]byte(row.metadata), &metadata); err != nil {
				t.Fatal(err)
			}
			id := metadata[event.HeaderEventID]
			if len(id) != 36 || id[14] != '7' || id <= last {
				t.Errorf("event id %q after %q, want growing UUIDv7s", id, last)
			}
			last = id
		}
	})
}
