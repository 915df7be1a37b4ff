package jetstream_test

import (
	"context"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/lockstep-go/lockstep/broker/jetstream"
	"github.com/lockstep-go/lockstep/event"
)

const (
	benchRound = 50_000 // messages
	benchCall  = 500    // messages of a PublishAsync call, and the raw loop's window
	benchBody  = 500    // bytes
)

// benchMessages are like the relay's: a UUID and two headers.
func benchMessages(n int) ([]string, []*message.Message) {
	topics, msgs := make([]string, n), make([]*message.Message, n)
	for i := range msgs {
		msgs[i] = message.NewMessage(watermill.NewUUID(), make([]byte, benchBody))
		msgs[i].Metadata.Set(event.HeaderEventID, msgs[i].UUID)
		msgs[i].Metadata.Set(event.HeaderOutboxID, strconv.Itoa(i))
		topics[i] = "account"
	}
	return topics, msgs
}

// publishPipelined sends a round, two calls at a time under way.
func publishPipelined(b *testing.B, broker *jetstream.Broker, topics []string, msgs []*message.Message) {
	b.Helper()
	ctx := context.Background()
	wait := func(context.Context) []error { return nil }
	for i := 0; i < len(msgs); i += benchCall {
		end := min(i+benchCall, len(msgs))
		next := broker.PublishAsync(ctx, topics[i:end], msgs[i:end])
		if errs := wait(ctx); errs != nil {
			b.Fatal(errs)
		}
		wait = next
	}
	if errs := wait(ctx); errs != nil {
		b.Fatal(errs)
	}
}

// rawServer is an embedded server like ours, with a stream like ours, driven
// by nats.go alone.
func rawServer(b *testing.B) natsjs.JetStream {
	b.Helper()
	srv, err := server.NewServer(&server.Options{
		DontListen: true, JetStream: true, StoreDir: b.TempDir(), NoSigs: true, NoLog: true, SyncInterval: time.Second,
	})
	if err != nil {
		b.Fatal(err)
	}
	srv.Start()
	b.Cleanup(func() { stopServer(srv) })
	if !srv.ReadyForConnections(20 * time.Second) {
		b.Fatal("not ready")
	}
	nc, err := nats.Connect("", nats.InProcessServer(srv))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	js, err := natsjs.New(nc, natsjs.WithPublishAsyncMaxPending(benchCall))
	if err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	stream, err := js.CreateStream(ctx, natsjs.StreamConfig{Name: "raw", Subjects: []string{"raw.>"}, Retention: natsjs.InterestPolicy})
	if err != nil {
		b.Fatal(err)
	}
	_, err = stream.CreateConsumer(ctx, natsjs.ConsumerConfig{
		Durable: "q", FilterSubject: "raw.account", AckPolicy: natsjs.AckExplicitPolicy, DeliverPolicy: natsjs.DeliverNewPolicy,
	})
	if err != nil {
		b.Fatal(err)
	}
	return js
}

func publishRaw(b *testing.B, js natsjs.JetStream, n int, header nats.Header) {
	b.Helper()
	body := make([]byte, benchBody)
	for range n {
		msg := &nats.Msg{Subject: "raw.account", Data: body, Header: header}
		if _, err := js.PublishMsgAsync(msg, natsjs.WithStallWait(10*time.Second)); err != nil {
			b.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
}

// BenchmarkPublishAgainstRaw alternates rounds of a Broker's pipelined calls,
// with a UUID and two headers, with rounds of nats.go's PublishAsync, window
// 500, without headers and with the same ones. An operation is one of each.
//
//	go test -run '^$' -bench AgainstRaw -benchtime 11x ./broker/jetstream
func BenchmarkPublishAgainstRaw(b *testing.B) {
	js := rawServer(b)
	broker := open(b, "jetstream+embedded://"+b.TempDir(), jetstream.Config{})
	if err := broker.Bind(context.Background(), "billing", "account"); err != nil {
		b.Fatal(err)
	}
	topics, msgs := benchMessages(benchRound)
	header := nats.Header{"id": {msgs[0].UUID}, event.HeaderEventID: {msgs[0].UUID}, event.HeaderOutboxID: {"12345"}}
	var ours, raw, rawHeaders []float64
	rate := func(rates *[]float64, round func()) {
		start := time.Now()
		round()
		*rates = append(*rates, benchRound/time.Since(start).Seconds())
	}
	publishPipelined(b, broker, topics, msgs)
	publishRaw(b, js, benchRound, nil)
	for b.Loop() {
		rate(&raw, func() { publishRaw(b, js, benchRound, nil) })
		rate(&ours, func() { publishPipelined(b, broker, topics, msgs) })
		rate(&rawHeaders, func() { publishRaw(b, js, benchRound, header) })
	}
	b.ReportMetric(median(ours), "msg/s")
	b.ReportMetric(median(raw), "raw-msg/s")
	b.ReportMetric(median(ours)/median(raw), "of-raw")
	b.ReportMetric(median(ours)/median(rawHeaders), "of-raw-with-headers")
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// BenchmarkSubscribe drains a queue, acknowledging each message at once. An
// operation is a message.
func BenchmarkSubscribe(b *testing.B) {
	broker := open(b, "jetstream+embedded://"+b.TempDir(), jetstream.Config{})
	ctx := context.Background()
	if err := broker.Bind(ctx, "billing", "account"); err != nil {
		b.Fatal(err)
	}
	publishPipelined(b, broker, slices.Repeat([]string{"account"}, b.N), func() []*message.Message {
		_, msgs := benchMessages(b.N)
		return msgs
	}())
	b.ResetTimer()
	messages, err := broker.Subscribe(ctx, "billing")
	if err != nil {
		b.Fatal(err)
	}
	for range b.N {
		(<-messages).Ack()
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}
