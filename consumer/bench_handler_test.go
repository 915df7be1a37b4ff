package consumer

import (
	"context"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// handleAll runs a consumer with a handler that waits 5 ms, until it has
// acknowledged the messages, and returns how long that took.
func handleAll(b *testing.B, r *rig, messages []*message.Message) time.Duration {
	b.Helper()
	broker := &readyBroker{testBroker: newTestBroker(), messages: make(chan *message.Message, len(messages))}
	r.broker = broker
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	for _, m := range messages {
		broker.messages <- m
	}
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	for _, m := range messages {
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

// BenchmarkHandlers compares eight workers with one, in alternating rounds on one
// database; the handler waits 5 ms and writes a row:
// go test -run '^$' -bench Handlers -benchtime 7x
func BenchmarkHandlers(b *testing.B) {
	const events, keys = 200, 50
	handler := func(ctx context.Context, tx Tx, ev Event[author]) error {
		linger(ctx, 5*time.Millisecond)
		return logAuthor(ctx, tx, ev)
	}
	one := authorConsumer(b, Postgres, Config{Workers: 1}, handler)
	eight, err := New(one.db, newTestBroker(), Config{Queue: "eight", Workers: 8})
	if err != nil {
		b.Fatal(err)
	}
	if err := Handle(eight, "author", handler); err != nil {
		b.Fatal(err)
	}
	revision := 0
	changes := func() []*message.Message {
		messages := make([]*message.Message, 0, events)
		for range events / keys {
			revision++
			for key := range keys {
				messages = append(messages, authorEvent("SAVE", key, revision, "x"))
			}
		}
		return messages
	}
	var single, many, ratios []float64
	for b.Loop() {
		a := events / handleAll(b, one, changes()).Seconds()
		z := events / handleAll(b, &rig{Consumer: eight}, changes()).Seconds()
		single, many, ratios = append(single, a), append(many, z), append(ratios, z/a)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(single), "one-events/s")
	b.ReportMetric(median(many), "eight-events/s")
	b.ReportMetric(median(ratios), "ratio")
}
