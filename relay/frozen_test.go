package relay_test

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/relay"
)

// frozenOn is a database and a pool that leads to it through a proxy, which falls
// silent just before the COMMIT of a transaction that contains a text.
func frozenOn(t *testing.T, d relay.Dialect, stopAt string) (m master, through *sql.DB, proxy *silent) {
	t.Helper()
	var err error
	if d == relay.MySQL {
		db, dsn := testdb.MariaDB(t)
		cfg, err := mysql.ParseDSN(dsn)
		if err != nil {
			t.Fatal(err)
		}
		proxy = newSilent(t, cfg.Addr)
		cfg.Addr = proxy.Addr().String()
		connector, err := mysql.NewConnector(cfg)
		if err != nil {
			t.Fatal(err)
		}
		m, through = migrated(t, db, d), sql.OpenDB(connector)
	} else {
		db, dsn := testdb.Postgres(t)
		u, err := url.Parse(dsn)
		if err != nil {
			t.Fatal(err)
		}
		proxy = newSilent(t, u.Host)
		u.Host = proxy.Addr().String()
		m = migrated(t, db, d)
		if through, err = sql.Open("postgres", u.String()); err != nil {
			t.Fatal(err)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	proxy.stopAt = stopAt
	return m, through, proxy
}

// A relay that is frozen between the statements and the COMMIT of a settlement
// holds the locks of rows that its successor deletes. The database ends that
// transaction before long.
func TestFrozenInASettlement(t *testing.T) {
	t.Parallel()
	for _, d := range []relay.Dialect{relay.Postgres, relay.MySQL} {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			m, through, proxy := frozenOn(t, d, "INTO outbox_dead")
			fate := func(payload string) error {
				if payload == "a1" {
					return refusal{permanent: true}
				}
				return nil
			}
			runFrozen(t, through, &recorder{fate: fate})
			m.put(t, "a1", "b1", "c1") // one dies, the others are deleted in the same transaction
			eventually(t, "the first relay is about to commit", proxy.mute.Load)
			began := time.Now()
			second := &recorder{fate: fate}
			other, _ := m.start(t, second, relay.Config{}) // whose lease outlasts a busy machine
			eventually(t, "the other has taken over", func() bool { return other.Stats().Term >= 2 })
			m.drained(t)
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("the successor could delete after %v, want it when the database ended what was left open", took)
			}
			if n := m.count(t, "outbox_dead"); n != 1 {
				t.Errorf("%d dead letters, want 1", n)
			}
		})
	}
}

// A relay that is frozen while it takes the lease holds the lock that all takers
// of leases need.
func TestFrozenInTakingTheLease(t *testing.T) {
	t.Parallel()
	for _, d := range []relay.Dialect{relay.Postgres, relay.MySQL} {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			m, through, proxy := frozenOn(t, d, "UPDATE outbox_shards SET wanted = wanted")
			runFrozen(t, through, &recorder{})
			eventually(t, "the first relay is about to commit", proxy.mute.Load)
			began := time.Now()
			second := &recorder{}
			m.start(t, second, relay.Config{})
			m.put(t, "a1")
			m.drained(t)
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("another took the lease after %v, want it when the database ended what was left open", took)
			}
			wantSeen(t, second, "a1")
		})
	}
}

// runFrozen runs the relay that will be frozen until the test has ended, and with it
// the proxy's connections.
func runFrozen(t *testing.T, db *sql.DB, pub *recorder) {
	t.Helper()
	r, err := relay.New(db, pub, relay.Config{LeaseTTL: time.Second, DrainTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil && !errors.As(err, new(*relay.DrainError)) {
			t.Errorf("Run: %v", err)
		}
		_ = db.Close()
	})
	go func() { ended <- r.Run(ctx) }()
}

// The bound on MariaDB is the session's; the pool's other users must not meet it.
func TestBoundIsTakenBack(t *testing.T) {
	t.Parallel()
	db, _ := testdb.MariaDB(t)
	db.SetMaxOpenConns(1)
	m := migrated(t, db, relay.MySQL)
	if _, err := m.ExecContext(t.Context(), `SET SESSION idle_transaction_timeout = 1234`); err != nil {
		t.Fatal(err)
	}
	admin, err := relay.NewAdmin(m.DB, m.dialect)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.PurgeDead(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	var have int
	if err := m.QueryRowContext(t.Context(), `SELECT @@SESSION.idle_transaction_timeout`).Scan(&have); err != nil {
		t.Fatal(err)
	}
	if have != 1234 {
		t.Errorf("idle_transaction_timeout is %d s afterwards, want the 1234 s of before", have)
	}
}
