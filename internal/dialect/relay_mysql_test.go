package dialect_test

import (
	"crypto/rand"
	"database/sql"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/lockstep-go/lockstep/internal/dialect"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/migrations"
)

func horizonByAge(t *testing.T, db dialect.Querier) (lowest, next int64) {
	t.Helper()
	if err := db.QueryRowContext(t.Context(), dialect.MySQL.Relay().HorizonByAge).Scan(&lowest, &next); err != nil {
		t.Fatal(err)
	}
	return lowest, next
}

// horizon asks until the answer is of now.
func horizon(t *testing.T, db *sql.DB) (lowest, next int64) {
	t.Helper()
	relay := dialect.MySQL.Relay()
	ask := func() (fresh bool) {
		tx, err := db.BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback() }()
		var rows int
		err = tx.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM t`).Scan(&rows) // for relay.Touch
		if err == nil {
			err = tx.QueryRowContext(t.Context(), strings.ReplaceAll(relay.Horizon, dialect.Mark, rand.Text())).Scan(&lowest, &next, &fresh)
		}
		if err != nil {
			t.Fatal(err)
		}
		return fresh
	}
	for deadline := time.Now().Add(2 * time.Minute); !ask(); <-time.After(150 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no answer is of now")
		}
	}
	return lowest, next
}

// An account that may not see other transactions must be told so, not that there are none.
func TestMySQLHorizonIsDeniedWithoutThePrivilege(t *testing.T) {
	t.Parallel()
	db, dsn := testdb.MariaDB(t)
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	user := "blind_" + cfg.DBName[max(0, len(cfg.DBName)-12):]
	exec(t, db, "CREATE USER "+user+" IDENTIFIED BY 'x'")
	defer exec(t, db, "DROP USER "+user)
	cfg.User, cfg.Passwd, cfg.DBName = user, "x", ""
	blind, err := sql.Open("mysql", cfg.FormatDSN())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = blind.Close() }()
	relay := dialect.MySQL.Relay()
	var a, b string
	if err := blind.QueryRowContext(t.Context(), relay.Horizon).Scan(&a, &b, new(bool)); !dialect.IsDenied(err) {
		t.Errorf("without PROCESS: %v, %q, %q", err, a, b)
	}
	if lowest, now := horizonByAge(t, blind); now-lowest != 600e6 || now < 1e15 {
		t.Errorf("by age: from %d to %d, want ten minutes in microseconds", lowest, now)
	}
}

// A transaction that has written holds the horizon until it ends.
func TestMySQLHorizonWaitsForWriters(t *testing.T) {
	t.Parallel()
	db, _ := testdb.MariaDB(t)
	exec(t, db, `CREATE TABLE t (id int AUTO_INCREMENT PRIMARY KEY)`)
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(t.Context(), `INSERT INTO t VALUES ()`); err != nil {
		t.Fatal(err)
	}
	lowest, next := horizon(t, db)
	if lowest >= next {
		t.Fatalf("lowest %d, next %d: the transaction that runs is not seen", lowest, next)
	}
	if now, _ := horizon(t, db); now >= next {
		t.Errorf("lowest is %d, beyond %d, while the transaction runs", now, next)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	for range 600 { // others' transactions come and go on this server
		exec(t, db, `DO SLEEP(0.2)`)
		if now, _ := horizon(t, db); now >= next {
			return
		}
	}
	t.Errorf("the horizon stays below %d", next)
}

// Late rows and new ones come in id order, bounded in rows and bytes, with any number of ranges.
func TestMySQLFetch(t *testing.T) {
	t.Parallel()
	db, _ := testdb.MariaDB(t)
	if _, err := migrations.Up(t.Context(), db, migrations.MySQL); err != nil {
		t.Fatal(err)
	}
	exec(t, db, "INSERT INTO outbox (id, topic, `key`, payload) SELECT seq, 'žába', '🐎', REPEAT('x', 10) FROM seq_1_to_3000")
	ids := func(position int64, rows int, bytes int64, lows, highs []int64) (ids []int64) {
		t.Helper()
		conn, err := db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		if _, err := conn.ExecContext(t.Context(), `SET NAMES latin1`); err != nil {
			t.Fatal(err)
		}
		result, err := conn.QueryContext(t.Context(), dialect.MySQLFetch(position, rows, bytes, lows, highs, 0, 1))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = result.Close() }()
		for result.Next() {
			var id int64
			var topic, key, payload, metadata string
			if err := result.Scan(&id, &topic, &key, &payload, &metadata); err != nil {
				t.Fatal(err)
			}
			if topic != "žába" || key != "🐎" || metadata != "{}" || payload != strings.Repeat("x", 10) {
				t.Fatalf("row %d: %q %q %q %q", id, topic, key, payload, metadata)
			}
			ids = append(ids, id)
		}
		if err := result.Err(); err != nil {
			t.Fatal(err)
		}
		return ids
	}
	want := func(what string, have []int64, want ...int64) {
		t.Helper()
		if !slices.Equal(have, want) {
			t.Errorf("%s: have %v, want %v", what, have, want)
		}
	}
	want("no gaps", ids(2990, 3, 1e6, nil, nil), 2991, 2992, 2993)
	want("bounded in bytes", ids(2990, 10, 11, nil, nil), 2991, 2992)
	want("the first row always comes", ids(2990, 10, 1, nil, nil), 2991)
	want("gaps first", ids(2998, 10, 1e6, []int64{5, 100}, []int64{6, 100}), 5, 6, 100, 2999, 3000)
	want("bounded in rows", ids(2998, 2, 1e6, []int64{5, 100}, []int64{6, 100}), 5, 6)
	var odd []int64
	for id := int64(1); id < 2900; id += 2 {
		odd = append(odd, id)
	}
	want("many gaps", ids(2999, 5000, 1e6, odd, odd), append(slices.Clone(odd), 3000)...)
	if plan := explain(t, db, dialect.MySQLFetch(2990, 500, 1e6, odd, odd, 0, 1)); slices.Contains(plan, "outbox ALL") || slices.Contains(plan, "o ALL") {
		t.Errorf("the plan scans the outbox: %v", plan)
	}
	relay := dialect.MySQL.Relay()
	for _, ids := range []string{"[1]", dialect.MySQL.IDs(odd)} {
		text := strings.ReplaceAll(relay.Delete, "?1", "'"+ids+"'")
		if plan := explain(t, db, text); !slices.Contains(plan, "o eq_ref") {
			t.Errorf("the deletion does not go by the primary key: %v", plan)
		}
	}
}

// explain returns "table type" for each step of a plan.
func explain(t *testing.T, db *sql.DB, query string) (steps []string) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), "EXPLAIN "+query)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var fields [10]sql.NullString
		var into []any
		for i := range fields {
			into = append(into, &fields[i])
		}
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		steps = append(steps, fields[2].String+" "+fields[3].String)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	if len(steps) == 0 {
		t.Fatal("no plan for " + strconv.Quote(query))
	}
	return steps
}
