package relay_test

import (
	"bytes"
	"database/sql"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/relay"
)

// logged is a log that can be read while it is written.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// A pooler that gives each transaction another session makes the relay meet the
// statements that others have prepared. Its log says what to do.
func TestSessionsOfOthers(t *testing.T) {
	t.Parallel()
	db, _ := testdb.Postgres(t)
	m := migrated(t, db, relay.Postgres)
	var held []*sql.Conn
	for range 4 { // more than a relay uses at a time
		conn, err := db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, conn)
	}
	db.SetMaxIdleConns(len(held))
	for _, conn := range held {
		for _, name := range []string{"1", "2", "3"} { // as lib/pq counts them
			if _, err := conn.ExecContext(t.Context(), `PREPARE "`+name+`" AS SELECT 1`); err != nil {
				t.Fatal(err)
			}
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var log logged
	_, stop := m.start(t, &recorder{}, relay.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	defer stop()
	eventually(t, "the remedy is logged", func() bool { return strings.Contains(log.String(), "connect the relay past a pooler") })
}
