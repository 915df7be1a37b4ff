package consumer

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// consumeBy is consumeAll with batches of a size.
func consumeBy(b *testing.B, db *sql.DB, size int, messages []*message.Message) time.Duration {
	b.Helper()
	broker := &readyBroker{testBroker: newTestBroker(), messages: make(chan *message.Message, len(messages))}
	c, err := New(db, broker, Config{Queue: "replica", BatchSize: size})
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
	for _, m := range slices.Backward(messages) {
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

// BenchmarkApplyElsewhere is the consumer's rate on MySQL and SQLite by batches,
// against its own with one message a transaction, in alternating rounds on one table;
// and with one message in a hundred that does not fit, against its rate without:
// go test -run '^$' -bench Elsewhere -benchtime 5x ./consumer
func BenchmarkApplyElsewhere(b *testing.B) {
	const fast, slow = 10_000, 500
	for _, d := range []Dialect{MySQL, SQLite} {
		b.Run(string(d), func(b *testing.B) {
			ddl := benchTable
			if d == SQLite {
				ddl = strings.ReplaceAll(ddl, "timestamptz", "text")
			}
			db := openDB(b, d, ddl, "CREATE UNIQUE INDEX emails ON account_ref ("+map[bool]string{true: "email(60)", false: "email"}[d == MySQL]+")")
			master := newBenchMaster()
			made := float64(benchKeys) / consumeBy(b, db, 500, master.messages(benchKeys, func(i int) int { return i })).Seconds()
			var batched, single, ratios, mixed []float64
			for b.Loop() {
				one := float64(slow) / consumeBy(b, db, 1, master.changes(slow)).Seconds()
				many := float64(fast) / consumeBy(b, db, 500, master.changes(fast)).Seconds()
				messages := master.changes(fast)
				for i := 0; i < fast; i += 100 {
					messages[i] = lockstep(strings.Replace(string(messages[i].Payload), "someone", "someone1@example.org", 1))
					messages[i] = lockstep(strings.Replace(string(messages[i].Payload), `"email":"someone1@example.org`, `"email":"someone1@example.org","other":"`, 1))
				}
				bad := float64(fast) / consumeBy(b, db, 500, messages).Seconds()
				single, batched, ratios, mixed = append(single, one), append(batched, many), append(ratios, many/one), append(mixed, bad/many)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(made, "new-rows/s")
			b.ReportMetric(median(batched), "batched-msg/s")
			b.ReportMetric(median(single), "one-msg/s")
			b.ReportMetric(median(ratios), "ratio")
			b.ReportMetric(median(mixed), "bad-of-rate")
		})
	}
}
