package rabbitmq

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"
)

// What a round of the benchmarks moves.
const (
	roundSize = 20_000
	callSize  = 500
	bodySize  = 500
)

// BenchmarkPublish compares PublishAsync, in calls of 500 with four under way, with a plain amqp091 loop
// with a window of 500: confirmed 500-byte messages into a durable queue. The plain loop runs without
// the mandatory flag, as the reference, and with it, as PublishAsync does: RabbitMQ's queue answers
// the channel once more for each mandatory message. An iteration is a round of each, in turn; reported
// are the medians and their ratios.
//
//	go test -run '^$' -bench Publish -benchtime 9x ./broker/rabbitmq
func BenchmarkPublish(b *testing.B) {
	r := newRig(b)
	broker, queue := r.bound(Config{}, "account")
	topics := slices.Repeat([]string{"account"}, callSize)
	msgs := make([]*message.Message, roundSize)
	for i := range msgs {
		msgs[i] = message.NewMessage(watermill.NewUUID(), bytes.Repeat([]byte("x"), bodySize))
	}
	var plain, mandatory, own []float64
	r.publishPlainly(1000, false) // warm up both
	publishAsync(b, broker, topics, msgs[:1000])
	for b.Loop() {
		plain = append(plain, r.measure(queue, func() { r.publishPlainly(roundSize, false) }))
		own = append(own, r.measure(queue, func() { publishAsync(b, broker, topics, msgs) }))
		mandatory = append(mandatory, r.measure(queue, func() { r.publishPlainly(roundSize, true) }))
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(plain), "raw/s")
	b.ReportMetric(median(mandatory), "raw-mandatory/s")
	b.ReportMetric(median(own), "own/s")
	b.ReportMetric(median(own)/median(plain), "ratio")
	b.ReportMetric(median(own)/median(mandatory), "ratio-mandatory")
}

// measure returns round sizes per second and empties the queue.
func (r *rig) measure(queue string, round func()) float64 {
	start := time.Now()
	round()
	took := time.Since(start)
	if _, err := r.ch.QueuePurge(queue, false); err != nil {
		r.t.Fatal(err)
	}
	return roundSize / took.Seconds()
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

func publishAsync(b *testing.B, broker *Broker, topics []string, msgs []*message.Message) {
	var waits []func(context.Context) []error
	for len(msgs) > 0 || len(waits) > 0 {
		if len(msgs) > 0 {
			waits = append(waits, broker.PublishAsync(b.Context(), topics, msgs[:callSize]))
			msgs = msgs[callSize:]
		}
		if len(waits) == 4 || len(msgs) == 0 {
			if errs := waits[0](b.Context()); errs != nil {
				b.Fatal(errs[0])
			}
			waits = waits[1:]
		}
	}
}

// publishPlainly is the reference: as much as amqp091 does with a window and nothing else.
func (r *rig) publishPlainly(n int, mandatory bool) {
	const window = 500
	ch := r.channel()
	defer func() { _ = ch.Close() }()
	if err := ch.Confirm(false); err != nil {
		r.t.Fatal(err)
	}
	body := bytes.Repeat([]byte("x"), bodySize)
	var pending []*amqp.DeferredConfirmation
	for i := 0; i < n || len(pending) > 0; i++ {
		if len(pending) == window || i >= n {
			if !pending[0].Wait() {
				r.t.Fatal("nacked")
			}
			pending = pending[1:]
		}
		if i >= n {
			continue
		}
		dc, err := ch.PublishWithDeferredConfirm(r.exchange, "account", mandatory, false,
			amqp.Publishing{ContentType: "text/plain", DeliveryMode: amqp.Persistent, Body: body})
		if err != nil {
			r.t.Fatal(err)
		}
		pending = append(pending, dc)
	}
}

// BenchmarkConsume measures how fast a full queue is handed on and acked, 500 at a time as a consumer
// that works in batches does.
func BenchmarkConsume(b *testing.B) {
	r := newRig(b)
	broker, queue := r.bound(Config{}, "account")
	var rates []float64
	for b.Loop() {
		r.publishPlainly(roundSize, false)
		ctx, cancel := context.WithCancel(b.Context())
		start := time.Now()
		messages, err := broker.Subscribe(ctx, queue)
		if err != nil {
			b.Fatal(err)
		}
		var batch []*message.Message
		for range roundSize {
			if batch = append(batch, <-messages); len(batch) == callSize {
				for _, msg := range batch {
					msg.Ack()
				}
				batch = batch[:0]
			}
		}
		rates = append(rates, roundSize/time.Since(start).Seconds())
		cancel()
		for range messages {
			b.Fatal("more messages than were sent")
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(rates), "messages/s")
}
