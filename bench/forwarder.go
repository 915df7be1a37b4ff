package main

import (
	"context"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/components/forwarder"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
)

// forwarderRate measures Watermill's forwarder from a full table to a full queue.
func forwarderRate(ctx context.Context, r *rig, n int) (float64, error) {
	bodies := make([][]byte, n)
	for i := range bodies {
		bodies[i] = payload()
	}
	return forwarded(ctx, r, bodies, func(ctx context.Context) error { return r.received(ctx, n) })
}

// forwarded runs Watermill's forwarder over a table of messages until arrived returns.
func forwarded(ctx context.Context, r *rig, bodies [][]byte, arrived func(context.Context) error) (float64, error) {
	n := len(bodies)
	log := watermill.NopLogger{}
	topic := "forward" + uuid.NewString()[:8]
	schema := wsql.DefaultPostgreSQLSchema{}
	into, err := wsql.NewPublisher(wsql.BeginnerFromStdSQL(r.db), wsql.PublisherConfig{SchemaAdapter: schema, AutoInitializeSchema: true}, log)
	if err != nil {
		return 0, err
	}
	enveloped := forwarder.NewPublisher(into, forwarder.PublisherConfig{ForwarderTopic: topic})
	for sent := 0; sent < n; {
		batch := make([]*message.Message, 0, 500)
		for ; sent < n && len(batch) < 500; sent++ {
			batch = append(batch, message.NewMessage(uuid.NewString(), bodies[sent]))
		}
		if err := enveloped.Publish("account", batch...); err != nil {
			return 0, err
		}
	}
	from, err := wsql.NewSubscriber(wsql.BeginnerFromStdSQL(r.db), wsql.SubscriberConfig{
		SchemaAdapter: schema, OffsetsAdapter: wsql.DefaultPostgreSQLOffsetsAdapter{}, InitializeSchema: true, PollInterval: 10 * time.Millisecond,
	}, log)
	if err != nil {
		return 0, err
	}
	to, err := wamqp.NewPublisher(r.watermill(), log)
	if err != nil {
		return 0, err
	}
	defer func() { _ = to.Close() }()
	f, err := forwarder.NewForwarder(from, to, log, forwarder.Config{ForwarderTopic: topic})
	if err != nil {
		return 0, err
	}
	ended := make(chan error, 1)
	began := time.Now()
	go func() { ended <- f.Run(ctx) }()
	if err := arrived(ctx); err != nil {
		return 0, err
	}
	took := time.Since(began)
	if err := f.Close(); err != nil {
		return 0, err
	}
	return perSecond(n, took), <-ended
}

// watermill configures watermill-amqp for what the relay does: a topic exchange, all of
// it durable, confirms.
func (r *rig) watermill() wamqp.Config {
	cfg := wamqp.NewDurableTopicConfig(r.amqpURL, r.exchange, r.queue)
	cfg.Publish.GenerateRoutingKey = func(topic string) string { return topic }
	cfg.Exchange.Durable = true // its "durable" topology has an exchange that is not
	cfg.Publish.ConfirmDelivery = true
	return cfg
}
