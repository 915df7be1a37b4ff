package main

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/lockstep-go/lockstep/broker/jetstream"
	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/relay"
)

var relayJetStream = row{
	name: "relay-jetstream", target: 0.75,
	what: "relay, PostgreSQL to JetStream inside the process; against a raw nats.go publisher with 500 messages under way, the same server and headers",
	run: func(ctx context.Context, messages int) (float64, float64, error) {
		r, err := newRig(ctx)
		if err != nil {
			return 0, 0, err
		}
		defer r.close()
		messages *= 5 // a second or so, not a tenth
		return byTurns(
			func() (float64, error) { return jetStreamRate(ctx, r, messages) },
			func() (float64, error) { return rawJetStreamRate(ctx, messages) },
		)
	},
}

func jetStreamRate(ctx context.Context, r *rig, n int) (float64, error) {
	folder, err := os.MkdirTemp("", "lockstep-bench-")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	broker, err := jetstream.Open(ctx, "jetstream+embedded://"+folder, jetstream.Config{})
	if err != nil {
		return 0, err
	}
	defer func() { _ = broker.Close() }()
	if err := broker.Bind(ctx, r.queue, "account"); err != nil {
		return 0, err
	}
	if err := r.fill(ctx, n); err != nil {
		return 0, err
	}
	took, err := empty(ctx, r.db, broker, n, relay.Config{})
	return perSecond(n, took), err
}

func rawJetStreamRate(ctx context.Context, n int) (float64, error) {
	folder, err := os.MkdirTemp("", "lockstep-bench-")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	srv, err := server.NewServer(&server.Options{
		DontListen: true, JetStream: true, StoreDir: folder, NoSigs: true, NoLog: true, SyncInterval: time.Second,
	})
	if err != nil {
		return 0, err
	}
	srv.Start()
	defer func() { srv.Shutdown(); srv.WaitForShutdown() }()
	if !srv.ReadyForConnections(20 * time.Second) {
		return 0, errors.New("the NATS server does not start")
	}
	conn, err := nats.Connect("", nats.InProcessServer(srv))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	js, err := natsjs.New(conn, natsjs.WithPublishAsyncMaxPending(500))
	if err != nil {
		return 0, err
	}
	stream, err := js.CreateStream(ctx, natsjs.StreamConfig{Name: "raw", Subjects: []string{"raw.>"}, Retention: natsjs.InterestPolicy})
	if err != nil {
		return 0, err
	}
	_, err = stream.CreateConsumer(ctx, natsjs.ConsumerConfig{
		Durable: "q", FilterSubject: "raw.account", AckPolicy: natsjs.AckExplicitPolicy, DeliverPolicy: natsjs.DeliverNewPolicy,
	})
	if err != nil {
		return 0, err
	}
	id := uuid.NewString()
	header := nats.Header{"id": {id}, event.HeaderEventID: {id}, event.HeaderOutboxID: {"12345"}}
	body := payload()
	began := time.Now()
	for range n {
		if _, err := js.PublishMsgAsync(&nats.Msg{Subject: "raw.account", Data: body, Header: header}, natsjs.WithStallWait(10*time.Second)); err != nil {
			return 0, err
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	return perSecond(n, time.Since(began)), nil
}
