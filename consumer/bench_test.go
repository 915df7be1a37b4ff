package consumer

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

const benchTable = `CREATE TABLE account_ref (
	id bigint PRIMARY KEY, name text NOT NULL, balance numeric(12,2) NOT NULL, email text, active boolean, note text,
	cqrs_revision bigint NOT NULL, cqrs_updated timestamptz NOT NULL)`

// benchMaster makes the messages of a master whose entities change at random.
type benchMaster struct {
	revisions []int64
	random    *rand.Rand
}

// benchKeys is how many entities it has.
const benchKeys = 10_000

func newBenchMaster() *benchMaster {
	return &benchMaster{make([]int64, benchKeys), rand.New(rand.NewPCG(1, 2))}
}

// changes returns n messages of about 500 bytes; each changes a random entity.
func (m *benchMaster) changes(n int) []*message.Message {
	return m.messages(n, func(int) int { return m.random.IntN(len(m.revisions)) })
}

func (m *benchMaster) messages(n int, key func(i int) int) []*message.Message {
	note := strings.Repeat("x", 150)
	out := make([]*message.Message, n)
	for i := range out {
		k := key(i)
		m.revisions[k]++
		r := m.revisions[k]
		out[i] = lockstep(envelope("SAVE", "account", fmt.Sprintf(
			`{"id":%d,"name":"account %d","balance":%d.25,"email":"someone%d@example.org","active":true,"note":"%s",%s}`,
			k, k, r%100000, k, note, versionJSON(r, time.Now()))))
	}
	return out
}

// benchReplica is the replica the benchmarks write to, filled with all keys.
func benchReplica(b *testing.B, master *benchMaster) *sql.DB {
	b.Helper()
	db := openDB(b, Postgres, benchTable)
	all := master.messages(len(master.revisions), func(i int) int { return i })
	consumeAll(b, db, all)
	mustExec(b, db, "VACUUM ANALYZE account_ref")
	return db
}

// readyBroker has all its messages in the subscriber's hands from the start, so
// that a benchmark measures the consumer and not the broker.
type readyBroker struct {
	*testBroker
	messages chan *message.Message
	start    time.Time
}

func (b *readyBroker) Subscribe(context.Context, string) (<-chan *message.Message, error) {
	b.start = time.Now()
	return b.messages, nil
}

// consumeAll runs a consumer until it has acknowledged the messages and returns
// how long that took.
func consumeAll(b *testing.B, db *sql.DB, messages []*message.Message) time.Duration {
	b.Helper()
	broker := &readyBroker{testBroker: newTestBroker(), messages: make(chan *message.Message, len(messages))}
	c, err := New(db, broker, Config{Queue: "replica"})
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Table("account", Table{Name: "account_ref"}); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	done := make(chan error, 1)
	for _, m := range messages {
		broker.messages <- m
	}
	go func() { done <- c.Run(ctx) }()
	for _, m := range slices.Backward(messages) { // the last is acknowledged last, or nearly so
		select {
		case <-m.Acked():
		case err := <-done:
			b.Fatal("Run ended: ", err)
		}
	}
	took := time.Since(broker.start)
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	return took
}

// upsertEach does what a hand-written handler does: decode, one guarded upsert
// in a transaction, acknowledge.
func upsertEach(b *testing.B, db *sql.DB, messages []*message.Message) time.Duration {
	b.Helper()
	const upsert = `INSERT INTO account_ref AS t (id, name, balance, email, active, note, cqrs_revision, cqrs_updated)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name, balance = EXCLUDED.balance, email = EXCLUDED.email, active = EXCLUDED.active,
			note = EXCLUDED.note, cqrs_revision = EXCLUDED.cqrs_revision, cqrs_updated = EXCLUDED.cqrs_updated
		WHERE t.cqrs_revision < EXCLUDED.cqrs_revision`
	start := time.Now()
	for _, m := range messages {
		var body struct {
			Data struct {
				ID       int64
				Name     string
				Balance  json.Number
				Email    string
				Active   bool
				Note     string
				Revision int64  `json:"cqrs_revision"`
				Updated  string `json:"cqrs_updated"`
			} `json:"instance_data"`
		}
		if err := json.Unmarshal(m.Payload, &body); err != nil {
			b.Fatal(err)
		}
		d := body.Data
		tx, err := db.BeginTx(b.Context(), nil)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := tx.ExecContext(b.Context(), upsert, d.ID, d.Name, d.Balance.String(), d.Email, d.Active, d.Note, d.Revision, d.Updated); err != nil {
			b.Fatal(err)
		}
		if err := tx.Commit(); err != nil {
			b.Fatal(err)
		}
		m.Ack()
	}
	return time.Since(start)
}

// BenchmarkApply compares the consumer with one upsert per transaction, in
// alternating rounds on one table: go test -run '^$' -bench Apply -benchtime 15x
func BenchmarkApply(b *testing.B) {
	const fast, slow = 20_000, 1_000
	master := newBenchMaster()
	db := benchReplica(b, master)
	consumeAll(b, db, master.changes(fast))
	var batched, single, ratios []float64
	for b.Loop() {
		one := float64(slow) / upsertEach(b, db, master.changes(slow)).Seconds()
		many := float64(fast) / consumeAll(b, db, master.changes(fast)).Seconds()
		single, batched, ratios = append(single, one), append(batched, many), append(ratios, many/one)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(batched), "batched-msg/s")
	b.ReportMetric(median(single), "upsert-msg/s")
	b.ReportMetric(median(ratios), "ratio")
}

// BenchmarkApplyOnePercentBad is the consumer's rate with one message in a
// hundred that does not fit, against its own rate without.
func BenchmarkApplyOnePercentBad(b *testing.B) {
	for _, bad := range []struct{ name, column, value string }{
		{"value", `"balance":`, `"balance":"x`},
		{"constraint", `"active":true`, `"active":false`},
	} {
		b.Run(bad.name, func(b *testing.B) {
			const n = 10_000
			master := newBenchMaster()
			db := benchReplica(b, master)
			mustExec(b, db, "ALTER TABLE account_ref ADD CHECK (active)")
			var ratios []float64
			for b.Loop() {
				good := consumeAll(b, db, master.changes(n))
				mixed := master.changes(n)
				for i := 0; i < n; i += 100 {
					at := i + master.random.IntN(100)
					text := strings.Replace(string(mixed[at].Payload), bad.column, bad.value, 1)
					if bad.name == "value" {
						text = strings.Replace(text, `.25,"email"`, `","email"`, 1)
					}
					mixed[at] = lockstep(text)
				}
				ratios = append(ratios, good.Seconds()/consumeAll(b, db, mixed).Seconds())
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(ratios), "of-rate")
		})
	}
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// BenchmarkDecode is the work per message beside the database's.
func BenchmarkDecode(b *testing.B) {
	c, err := New(openDB(b, SQLite, strings.ReplaceAll(benchTable, "timestamptz", "text")), newTestBroker(), Config{Queue: "replica"})
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Table("account", Table{Name: "account_ref"}); err != nil {
		b.Fatal(err)
	}
	replicas, faults, err := c.load(b.Context())
	if faults != nil || err != nil {
		b.Fatal(faults, err)
	}
	messages := newBenchMaster().changes(500)
	b.ReportAllocs()
	for b.Loop() {
		batch := make([]*incoming, 0, len(messages))
		for _, m := range messages {
			in, err := read(replicas, m, time.Now())
			if err != nil {
				b.Fatal(err)
			}
			batch = append(batch, in)
		}
		newProgram(batch)
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(len(messages)), "µs/msg")
}

// BenchmarkApplyOneKey is the consumer's rate with all messages of one key,
// against its own rate with as many of as many keys.
func BenchmarkApplyOneKey(b *testing.B) {
	const n = benchKeys
	master := newBenchMaster()
	db := benchReplica(b, master)
	var ratios []float64
	for b.Loop() {
		different := consumeAll(b, db, master.messages(n, func(i int) int { return i }))
		same := consumeAll(b, db, master.messages(n, func(int) int { return 7 }))
		ratios = append(ratios, different.Seconds()/same.Seconds())
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(ratios), "of-rate")
}

// BenchmarkApplyKinds is the consumer's rate with messages that are no plain
// next revision: against its own rate with those.
func BenchmarkApplyKinds(b *testing.B) {
	const n = benchKeys
	for _, kind := range []struct {
		name string
		skip func(m *benchMaster, i int)
	}{
		{"new rows", nil},
		{"a stale one in a hundred", func(m *benchMaster, i int) {
			if i%100 == 0 {
				m.revisions[i] -= 2
			}
		}},
		{"gaps only", func(m *benchMaster, i int) { m.revisions[i]++ }},
	} {
		b.Run(kind.name, func(b *testing.B) {
			master := newBenchMaster()
			db := benchReplica(b, master)
			each := func(i int) int { return i }
			var rates, ratios []float64
			for b.Loop() {
				plain := consumeAll(b, db, master.messages(n, each))
				if kind.skip == nil {
					mustExec(b, db, "TRUNCATE account_ref")
					clear(master.revisions)
				}
				took := consumeAll(b, db, master.messages(n, func(i int) int {
					if kind.skip != nil {
						kind.skip(master, i)
					}
					return i
				}))
				rates = append(rates, n/took.Seconds())
				ratios = append(ratios, plain.Seconds()/took.Seconds())
				if kind.skip != nil {
					for i := range master.revisions {
						master.revisions[i] += 2
					}
					consumeAll(b, db, master.messages(n, each))
				}
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(rates), "msg/s")
			b.ReportMetric(median(ratios), "of-rate")
		})
	}
}
