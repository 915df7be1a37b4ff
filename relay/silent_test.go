package relay_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/relay"
)

// silent is a proxy before the database that can stop passing anything on
// without closing a connection.
type silent struct {
	net.Listener
	target string
	mute   atomic.Bool
	// stopAt, if not empty, is what a transaction must contain for the proxy to fall
	// silent just before its COMMIT.
	stopAt string
}

func newSilent(t *testing.T, target string) *silent {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &silent{Listener: listener, target: target}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", s.target)
			if err != nil {
				_ = client.Close()
				continue
			}
			t.Cleanup(func() { _, _ = client.Close(), server.Close() })
			go s.pass(client, server, false)
			go s.pass(server, client, true)
		}
	}()
	return s
}

func (s *silent) pass(to io.Writer, from io.Reader, toServer bool) {
	buffer := make([]byte, 64<<10)
	for stopping := false; ; {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		if toServer && s.stopAt != "" {
			stopping = stopping || bytes.Contains(buffer[:n], []byte(s.stopAt))
			if stopping && bytes.Contains(buffer[:n], []byte("COMMIT")) {
				s.mute.Store(true)
			}
		}
		if !s.mute.Load() {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
	}
}

// An owner whose database connections have gone silent must stop before another
// may begin, and must end when it is told to.
func TestSilentDatabase(t *testing.T) {
	t.Parallel()
	db, dsn := testdb.Postgres(t)
	m := migrated(t, db, relay.Postgres)
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	proxy := newSilent(t, u.Host)
	u.Host = proxy.Addr().String()
	through, err := sql.Open("postgres", u.String())
	if err != nil {
		t.Fatal(err)
	}
	pub := &recorder{}
	r, err := relay.New(through, pub, relay.Config{LeaseTTL: time.Second, DrainTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	m.put(t, "a1")
	m.drained(t)
	proxy.mute.Store(true)
	muted := time.Now()
	second := &recorder{}
	other, _ := m.start(t, second, relay.Config{}) // whose lease outlasts a busy machine
	eventually(t, "the other has taken over", func() bool { return other.Stats().Term >= 2 })
	took := time.Since(muted)
	m.put(t, "a2")
	m.drained(t)
	if took > 20*time.Second {
		t.Errorf("taken over after %v, want about a second", took)
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil && !errors.As(err, new(*relay.DrainError)) {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(40 * time.Second):
		t.Error("Run does not end while its database is silent")
	}
	wantSeen(t, pub, "a1")
	wantSeen(t, second, "a2")
}

// A healthy key must not wait for keys that are refused, however many they are.
func TestManyBlockedKeysDelayNobody(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		pub := &recorder{fate: func(p string) error {
			if strings.HasPrefix(p, "bad") {
				return refusal{}
			}
			return nil
		}}
		insert := `WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
			INSERT INTO outbox (topic, key, payload) SELECT 'account', '%s' || (i %% %d), 'bad' FROM n`
		for _, backlog := range []string{fmt.Sprintf(insert, 1000, "key", 1000), fmt.Sprintf(insert, 10000, "same", 1)} {
			switch m.dialect {
			case relay.MySQL:
				backlog = strings.NewReplacer("(topic, key,", "(topic, `key`,", "'key' || (i % 1000)", "CONCAT('key', i % 1000)", "'same' || (i % 1)", "'same0'",
					"WITH RECURSIVE n (i) AS", "SET max_recursive_iterations = 20000; INSERT INTO outbox (topic, `key`, payload) WITH RECURSIVE n (i) AS",
					"INSERT INTO outbox (topic, key, payload) SELECT", "SELECT").Replace(backlog)
			case relay.Postgres:
				backlog = strings.Replace(backlog, "'bad'", "'bad'::bytea", 1)
			}
			if _, err := m.ExecContext(t.Context(), backlog); err != nil {
				t.Fatal(err)
			}
		}
		m.put(t, "z1")
		m.start(t, pub, relay.Config{BatchSize: 100})
		began := time.Now()
		eventually(t, "z1 is sent", func() bool {
			for _, s := range pub.all() {
				if s == "account/z1" {
					return true
				}
			}
			return false
		})
		t.Logf("z1 was sent after %v", time.Since(began))
	})
}

// A dead letter that was put back with its id and dies again must not stop the line.
func TestDyingTwice(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.put(t, "a1", "b1")
		if _, err := m.ExecContext(t.Context(), columns(`INSERT INTO outbox_dead (id, topic, key, payload, metadata, created_at, error, attempts)
			SELECT id, topic, key, payload, metadata, created_at, 'before', 1 FROM outbox WHERE key = 'a'`, m.dialect)); err != nil {
			t.Fatal(err)
		}
		pub := &recorder{fate: func(p string) error {
			if p == "a1" {
				return refusal{permanent: true}
			}
			return nil
		}}
		m.start(t, pub, relay.Config{})
		m.drained(t)
		if n := m.count(t, "outbox_dead"); n != 1 {
			t.Errorf("%d dead letters, want 1", n)
		}
	})
}
