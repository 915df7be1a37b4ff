package cli

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-go/lockstep/broker"
	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/metrics"
)

func newConsume(svc *service) *cobra.Command {
	s := settings{service: svc}
	var cfg consumer.Config
	var h health
	cmd := &cobra.Command{
		Use:   "consume",
		Short: "Apply events to the replica tables that a file declares, until interrupted",
		Long: `Apply events to the replica tables that a file declares, until interrupted. It is
a whole replica service for tables that need no code:

  # lockstep.yaml
  queue: billing
  replicas:
    account: {table: account_ref, key: id, columns: {id: id, name: title}}

Any number may run on one queue and share the work.`,
		Example: `  relay consume --config lockstep.yaml --database-url postgres://localhost/billing --broker-url amqp://localhost/`,
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return s.consume(cmd, cfg, h) },
	}
	s.databaseFlag(cmd)
	s.brokerFlag(cmd)
	s.configFlag(cmd)
	s.logFlags(cmd)
	h.flags(cmd)
	cmd.Flags().StringVar(&cfg.Queue, "queue", "", "`name` of the queue (default: the file's)")
	cmd.Flags().IntVar(&cfg.BatchSize, flagBatchSize, 500, "`messages` that one transaction takes at most")
	cmd.Flags().DurationVar(&cfg.DrainTimeout, flagDrain, 30*time.Second, "longest `time` to finish what is in hand when interrupted")
	return cmd
}

// Flags that run and consume have in common.
const (
	flagBatchSize = "batch-size"
	flagDrain     = "drain"
)

func (s *settings) consume(cmd *cobra.Command, cfg consumer.Config, h health) error {
	err := errors.Join(
		s.fill(cmd, s.withConfig(flagDatabase, flagBroker)...),
		atLeast(flagBatchSize, cfg.BatchSize, 1),
		atLeast(flagDrain, cfg.DrainTimeout, time.Millisecond),
		h.check(),
	)
	if err != nil {
		return err
	}
	file, err := s.readConfig()
	if err != nil {
		return err
	}
	if cfg.Queue == "" {
		cfg.Queue = file.Queue
	} else if err := event.ValidateName("the name", cfg.Queue); err != nil {
		return misusef("--queue: %w", err)
	}
	if cfg.Queue == "" {
		return misusef("%s: queue is missing: name this replica's queue there or by --queue", s.config)
	}
	if !file.hasReplicas() {
		return misusef("%s: replicas is missing: declare at least one table that follows an entity", s.config)
	}
	lag := metrics.NewLag()
	if h.address != "" {
		cfg.Observe = lag.Observe
	}
	ctx, log := cmd.Context(), s.logger(cmd)
	c, done, err := s.newConsumer(ctx, log, cfg, file)
	defer done()
	switch {
	case err != nil && ctx.Err() != nil:
		return nil // it was asked to end before it began
	case err != nil:
		return err
	}
	stop, err := h.serve(ctx, log, metrics.Consumer(c, lag, h.limit))
	if err != nil {
		return err
	}
	defer stop()
	return c.Run(ctx)
}

// newConsumer connects to both sides and checks them. done closes what it
// opened, also beside an error.
func (s *settings) newConsumer(ctx context.Context, log *slog.Logger, cfg consumer.Config, file *configFile) (c *consumer.Consumer, done func(), err error) {
	var open closers
	db, err := openDatabase(ctx, s.databaseURL)
	if err != nil {
		return nil, open.close, err
	}
	open.add(db)
	b, err := s.openBroker(ctx, broker.Options{Logger: log})
	if err != nil {
		return nil, open.close, err
	}
	open.add(b)
	cfg.Dialect, cfg.Logger = db.dialect, log
	c, err = consumer.New(db.DB, b, cfg)
	if err == nil {
		err = file.addReplicas(c)
	}
	if err != nil {
		return nil, open.close, &misuseError{err: err}
	}
	return c, open.close, c.Check(ctx)
}
