package consumer

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// author is what handlers in tests decode.
type author struct {
	ID   int64  `json:"id"`
	Name string `json:"name"`
}

// authorLog is a table without any guard: a handler that is called twice with
// one event leaves two rows.
const authorLog = `CREATE TABLE author_log (id bigint NOT NULL, name text, kind text NOT NULL, revision bigint NOT NULL)`

// authorEvent makes a message about an author, from a Lockstep master.
func authorEvent(signal string, key any, revision int, name string) *message.Message {
	data := fmt.Sprintf(`{"id":%s,"name":%q,%s}`, jsonKey(key), name, versionJSON(int64(revision), at(revision)))
	if signal == "DELETE" {
		data = fmt.Sprintf(`{"id":%s,%s}`, jsonKey(key), versionJSON(int64(revision), at(revision)))
	}
	return lockstep(keyed(envelope(signal, "author", data), jsonKey(key)))
}

// keyed puts a key into an envelope.
func keyed(body, key string) string {
	const old = `"instance_pk":1,`
	for i := 0; i+len(old) <= len(body); i++ {
		if body[i:i+len(old)] == old {
			return body[:i] + `"instance_pk":` + key + "," + body[i+len(old):]
		}
	}
	return body
}

// logAuthor is a handler that writes down each call.
func logAuthor(ctx context.Context, tx Tx, ev Event[author]) error {
	_, err := tx.ExecContext(ctx, fmt.Sprintf(`INSERT INTO author_log (id, name, kind, revision) VALUES (%s, '%s', '%s', %d)`,
		ev.Key, ev.Data.Name, ev.Kind, ev.Revision))
	return err
}

// authorConsumer returns a consumer with a handler for authors, on a fresh
// database, and the database's log of calls.
func authorConsumer(t testing.TB, d Dialect, cfg Config, fn func(context.Context, Tx, Event[author]) error, options ...HandlerOptions) *rig {
	t.Helper()
	db := openDB(t, d, authorLog)
	cfg.Queue = "replica"
	c, err := New(db, newTestBroker(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := Handle(c, "author", fn, options...); err != nil {
		t.Fatal(err)
	}
	return &rig{Consumer: c}
}

// runAuthors runs it.
func runAuthors(t *testing.T, d Dialect, cfg Config, fn func(context.Context, Tx, Event[author]) error, options ...HandlerOptions) (*rig, *running) {
	t.Helper()
	r := authorConsumer(t, d, cfg, fn, options...)
	broker := newTestBroker()
	return r, r.start(t, broker, broker)
}

func (r *rig) authorLog(t testing.TB) []string {
	t.Helper()
	return dump(t, r.db, "SELECT kind, id, name, revision FROM author_log")
}

// callLog counts what runs at a time, in all and for each key.
type callLog struct {
	mu       sync.Mutex
	now      int
	most     int
	keys     map[string]bool
	overlaps int
	order    map[string][]int64
}

func newCallLog() *callLog { return &callLog{keys: map[string]bool{}, order: map[string][]int64{}} }

func (c *callLog) enter(key string, revision int64) (leave func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now++
	c.most = max(c.most, c.now)
	if c.keys[key] {
		c.overlaps++
	}
	c.keys[key] = true
	c.order[key] = append(c.order[key], revision)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.now--
		c.keys[key] = false
	}
}

// linger waits as a slow handler does.
func linger(ctx context.Context, d time.Duration) { sleep(ctx, d) }
