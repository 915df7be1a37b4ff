// Package demo is a whole pipeline in one process, to look at: a master service
// that writes accounts and authors, a relay, a broker, and a replica service
// whose tables have other column names.
package demo

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lockstep-go/lockstep/broker"
	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/outbox"
	"github.com/lockstep-go/lockstep/relay"
)

// Side is the database of one of the two services.
type Side struct {
	DB      *sql.DB
	Dialect migrations.Dialect
	Name    string // shown to people
}

// Config is what a demo runs on.
type Config struct {
	Master, Replica Side
	Broker          broker.Broker
	BrokerName      string // shown to people
	// Wake is the relay's; see relay.Config.
	Wake <-chan struct{}
	// For is how long the master writes; 0 means until ctx ends.
	For time.Duration
	// Rate is how many transactions a second the master tries; 0 means as many
	// as it can.
	Rate int
	Log  *slog.Logger
	// View gets the live picture; nil means none.
	View io.Writer
	// Size returns the columns and lines of the terminal that View is, 0 for
	// unknown. Nil means that View is no terminal.
	Size func() (width, height int)
}

// Result is what a demo has done.
type Result struct {
	Seconds      float64 `json:"seconds"`
	Transactions int64   `json:"transactions"`
	RolledBack   int64   `json:"rolled_back"`
	// Written, Published and Applied count events. Applied includes those that
	// were overtaken by a newer event of their key in the same batch.
	Written   int64 `json:"written"`
	Published int64 `json:"published"`
	Applied   int64 `json:"applied"`
	Rows      int64 `json:"rows"` // in the master at the end
	Converged bool  `json:"converged"`
	// Difference says where the sides differ, when they do.
	Difference string  `json:"difference,omitempty"`
	LatencyMS  Latency `json:"latency_ms"`
}

// Latency is the time from the flush of an event, just before its commit, to its
// commit on the replica, in milliseconds.
type Latency struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

// settle is how long the replica gets to catch up at the end.
const settle = 30 * time.Second

// demo is one run.
type demo struct {
	Config
	ids      names
	outbox   *outbox.Outbox
	relay    *relay.Relay
	consumer *consumer.Consumer
	writers  []*writer
	lags     lags
	started  time.Time
}

// names are a run's own, so that it meets nobody else's messages on a broker
// that others use too.
type names struct{ account, author, queue string }

func newNames() names {
	run := strings.ToLower(rand.Text()[:6])
	return names{"demo_account_" + run, "demo_author_" + run, "demo_replica_" + run}
}

// Run runs a demo and returns what it did. The error is about a run that could
// not be carried out; two sides that differ at the end are a Result.
func Run(ctx context.Context, cfg Config) (Result, error) {
	d := &demo{Config: cfg, ids: newNames()}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if err := d.prepare(ctx); err != nil {
		return Result{}, err
	}
	defer d.dropQueues(ctx)
	// The services outlive the writing: they have to catch up.
	services, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var group sync.WaitGroup
	failed := make(chan error, 2)
	for _, run := range []func(context.Context) error{d.relay.Run, d.consumer.Run} {
		group.Go(func() {
			if err := run(services); err != nil {
				failed <- err
			}
		})
	}
	d.newWriters()
	d.started = time.Now()
	viewing, stopView := context.WithCancel(services)
	group.Go(func() { d.view(viewing) })

	err := d.write(ctx, failed)
	took := time.Since(d.started)
	difference, rows := "", int64(0)
	if err == nil {
		difference = d.converge(services)
		rows, err = d.count(services, &d.Master, masterTables)
	}
	stopView()
	stop()
	group.Wait()
	if err == nil && len(failed) > 0 {
		err = <-failed
	}
	result := d.result(took, difference) // the services count after they commit
	result.Rows = rows
	return result, err
}

// prepare makes the tables on both sides and the services on top of them.
func (d *demo) prepare(ctx context.Context) error {
	if err := d.Master.create(ctx, masterDDL, masterTables); err != nil {
		return fmt.Errorf("master: %w", err)
	}
	if err := d.Replica.create(ctx, replicaDDL, replicaTables); err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	var err error
	d.outbox, err = outbox.New(outbox.Config{Dialect: d.Master.Dialect, Entities: []outbox.Entity{
		{ID: d.ids.account, Table: "accounts", Fields: []string{"id", "name", "balance", "active"}},
		{ID: d.ids.author, Table: "authors"},
	}})
	if err != nil {
		return err
	}
	if err := d.outbox.Check(ctx, d.Master.DB); err != nil {
		return err
	}
	d.relay, err = relay.New(d.Master.DB, d.Broker, relay.Config{Dialect: d.Master.Dialect, Logger: d.Log, Wake: d.Wake})
	if err != nil {
		return err
	}
	d.consumer, err = consumer.New(d.Replica.DB, d.Broker, consumer.Config{
		Queue: d.ids.queue, Dialect: d.Replica.Dialect, Logger: d.Log, Observe: d.lags.observe,
	})
	if err != nil {
		return err
	}
	account, author := event.QueueTopics(d.ids.queue, d.ids.account), event.QueueTopics(d.ids.queue, d.ids.author)
	return errors.Join(
		d.consumer.Table(d.ids.account, consumer.Table{
			Name: "account_ref", Columns: map[string]string{"id": "id", "name": "title", "balance": "amount", "active": "is_open"},
		}),
		d.consumer.Table(d.ids.author, consumer.Table{
			Name: "author_ref", Key: "author_id", Columns: map[string]string{"id": "author_id", "name": "full_name"},
		}),
		d.consumer.Check(ctx),
		// The queue stands before the first event is sent, as in any deployment.
		d.Broker.Bind(ctx, d.ids.queue, slices.Concat(account, author)...),
	)
}

// create makes Lockstep's tables and the demo's own.
func (s *Side) create(ctx context.Context, ddl string, tables []string) error {
	if _, err := migrations.Up(ctx, s.DB, s.Dialect); err != nil {
		return err
	}
	for _, statement := range append(strings.Split(ddl, ";\n"), versionColumns(s.Dialect, tables)...) {
		if _, err := s.DB.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", firstLine(statement), err)
		}
	}
	return nil
}

func versionColumns(d migrations.Dialect, tables []string) (statements []string) {
	for _, table := range tables {
		statements = append(statements, dialect.Name.VersionColumns(d, table))
	}
	return statements
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

// write lets the master work for its time, and returns early when a service fails.
func (d *demo) write(ctx context.Context, failed <-chan error) error {
	if d.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.For)
		defer cancel()
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var group sync.WaitGroup
	for _, w := range d.writers {
		group.Go(func() {
			if err := w.run(ctx); err != nil {
				stop(err)
			}
		})
	}
	select {
	case <-ctx.Done():
	case err := <-failed:
		stop(err)
	}
	group.Wait()
	err := context.Cause(ctx)
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

func (d *demo) result(took time.Duration, difference string) Result {
	r := Result{Seconds: took.Seconds(), Converged: difference == "", Difference: difference}
	for _, w := range d.writers {
		r.Transactions += w.transactions.Load()
		r.RolledBack += w.rolledBack.Load()
		r.Written += w.written.Load()
	}
	r.Published = d.relay.Stats().Published
	s := d.consumer.Stats()
	r.Applied = s.Applied + s.Superseded
	p := d.lags.percentiles(0.50, 0.99)
	r.LatencyMS = Latency{P50: p[0], P99: p[1]}
	return r
}

// dropQueues removes the run's queues from a broker that others use too.
func (d *demo) dropQueues(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settle)
	defer cancel()
	for _, queue := range []string{d.ids.queue, event.DeadLetterQueue(d.ids.queue)} {
		if err := d.Broker.DeleteQueue(ctx, queue); err != nil {
			d.Log.Warn("the demo's queue stays on the broker", "queue", queue, "error", err)
		}
	}
}
