package relay_test

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/relay"
)

// recorder is a broker that answers as a test wants it to.
type recorder struct {
	mu    sync.Mutex
	seen  []string // "topic/payload" of every message handed in, in order
	fate  func(payload string) error
	delay <-chan struct{} // confirmations wait for it
}

func (r *recorder) PublishAsync(_ context.Context, topics []string, msgs []*message.Message) func(context.Context) []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	errs := make([]error, len(msgs))
	for i, m := range msgs {
		r.seen = append(r.seen, topics[i]+"/"+string(m.Payload))
		if r.fate != nil {
			errs[i] = r.fate(string(m.Payload))
		}
	}
	return func(ctx context.Context) []error {
		if r.delay != nil {
			select {
			case <-r.delay:
			case <-ctx.Done():
				return slices.Repeat([]error{ctx.Err()}, len(msgs))
			}
		}
		return errs
	}
}

func (r *recorder) Publish(string, ...*message.Message) error {
	return errors.New("the relay must use PublishAsync")
}

func (r *recorder) Close() error { return nil }

func (r *recorder) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.seen)
}

type refusal struct{ permanent bool }

func (r refusal) Error() string   { return "refused" }
func (r refusal) Permanent() bool { return r.permanent }

type master struct {
	*sql.DB
	dialect relay.Dialect
}

func onEach(t *testing.T, test func(t *testing.T, m master)) {
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		db, _ := testdb.Postgres(t)
		test(t, migrated(t, db, relay.Postgres))
	})
	t.Run("mysql", func(t *testing.T) {
		t.Parallel()
		db, _ := testdb.MariaDB(t)
		test(t, migrated(t, db, relay.MySQL))
	})
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		db, _ := testdb.SQLite(t)
		test(t, migrated(t, db, relay.SQLite))
	})
}

// columns are the outbox's as any program may insert them. key is a word of MySQL's.
func columns(text string, d relay.Dialect) string {
	return strings.ReplaceAll(text, "key", d.QuoteColumn("key"))
}

func migrated(t *testing.T, db *sql.DB, d relay.Dialect) master {
	t.Helper()
	if _, err := migrations.Up(t.Context(), db, d); err != nil {
		t.Fatal(err)
	}
	return master{db, d}
}

// put inserts messages as any program may: payloads "a1", "a2", "b1", … with the
// letter as key.
func (m master) put(t *testing.T, payloads ...string) {
	t.Helper()
	for _, p := range payloads {
		m.putIn(t, m.DB, p)
	}
}

type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

func (m master) putIn(t *testing.T, db execer, payload string) {
	t.Helper()
	insert := columns(`INSERT INTO outbox (topic, key, payload) VALUES ('account', `, m.dialect) + `$1, $2)`
	if m.dialect == relay.MySQL {
		insert = strings.NewReplacer("$1", "?", "$2", "?").Replace(insert)
	}
	if _, err := db.ExecContext(t.Context(), insert, payload[:1], []byte(payload)); err != nil {
		t.Fatal(err)
	}
}

// start runs a relay until the returned function is called or the test ends.
func (m master) start(t *testing.T, pub message.Publisher, cfg relay.Config) (r *relay.Relay, stop func()) {
	t.Helper()
	r, err := relay.New(m.DB, pub, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return r, stop
}

func (m master) count(t *testing.T, table string) (n int) {
	t.Helper()
	if err := m.QueryRowContext(context.WithoutCancel(t.Context()), `SELECT count(*) FROM `+table).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// patience bounds what must happen. It is far longer than it takes, for machines
// that are busy with other things.
const patience = 2 * time.Minute

// eventually waits until the condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func (m master) drained(t *testing.T) {
	t.Helper()
	eventually(t, "the outbox is empty", func() bool { return m.count(t, "outbox") == 0 })
}

func wantSeen(t *testing.T, r *recorder, want ...string) {
	t.Helper()
	for i := range want {
		want[i] = "account/" + want[i]
	}
	if diff := cmp.Diff(want, r.all()); diff != "" {
		t.Errorf("messages on the wire (-want +have):\n%s", diff)
	}
}
