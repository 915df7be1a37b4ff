package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/lockstep-go/lockstep/migrations"
)

// rig is a schema and a queue of a round's own.
type rig struct {
	admin    *sql.DB
	db       *sql.DB
	name     string
	amqpURL  string
	postgres string // URL with the schema
	conn     *amqp.Connection
	channel  *amqp.Channel
	exchange string
	queue    string
}

func newRig(ctx context.Context) (*rig, error) {
	r := &rig{name: "bench_" + strings.ReplaceAll(uuid.NewString()[:8], "-", "")}
	postgres := env("LOCKSTEP_TEST_POSTGRES_URL", "postgres://lockstep:lockstep@127.0.0.1:5432/lockstep?sslmode=disable")
	r.amqpURL = env("LOCKSTEP_TEST_RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672/")
	r.exchange, r.queue = r.name, r.name
	var err error
	if r.admin, err = sql.Open("postgres", postgres); err != nil {
		return nil, err
	}
	if _, err := r.admin.ExecContext(ctx, "CREATE SCHEMA "+r.name); err != nil {
		return nil, fmt.Errorf("run `scripts/services up` first: %w", err)
	}
	r.postgres = postgres + "&search_path=" + r.name
	if r.db, err = sql.Open("postgres", r.postgres); err != nil {
		return nil, err
	}
	if _, err := migrations.Up(ctx, r.db, migrations.Postgres); err != nil {
		return nil, err
	}
	if r.conn, err = amqp.Dial(r.amqpURL); err != nil {
		return nil, fmt.Errorf("run `scripts/services up` first: %w", err)
	}
	if r.channel, err = r.conn.Channel(); err != nil {
		return nil, err
	}
	return r, r.declare()
}

func (r *rig) declare() error {
	if err := r.channel.ExchangeDeclare(r.exchange, "topic", true, false, false, false, nil); err != nil {
		return err
	}
	if _, err := r.channel.QueueDeclare(r.queue, true, false, false, false, nil); err != nil {
		return err
	}
	return r.channel.QueueBind(r.queue, "account", r.exchange, false, nil)
}

func (r *rig) close() {
	_, _ = r.channel.QueueDelete(r.queue, false, false, false)
	_ = r.channel.ExchangeDelete(r.exchange, false, false)
	_ = r.conn.Close()
	_ = r.db.Close()
	_, _ = r.admin.Exec("DROP SCHEMA " + r.name + " CASCADE")
	_ = r.admin.Close()
}

// received waits until the queue holds n messages and empties it.
func (r *rig) received(ctx context.Context, n int) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		q, err := r.channel.QueueDeclarePassive(r.queue, true, false, false, false, nil)
		if err != nil {
			return err
		}
		if q.Messages >= n {
			_, err := r.channel.QueuePurge(r.queue, false)
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d messages arrived: %w", q.Messages, n, ctx.Err())
		case <-tick.C:
		}
	}
}

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}
