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
	var onlyDirect bool
	var h health
	cmd := &cobra.Command{
		Use:   "consume",
		Short: "Apply events to the replica tables that a file declares, until interrupted",
		Long: `Apply events to the replica tables that a file declares, until interrupted. It is
a whole replica service for tables that need no code:

  # lockstep.yaml
  queue: billing
  replicas:
    account: {table: account_ref, key: id, columns: {id: id, name: title},
      max_retries: 30, retry_delay: 2s, only_direct_syncs: false}
  consume:                     # all of it may be left out; flags stand over it
    batch_size: 500            # messages that one transaction takes at most
    statement_timeout: 10s     # longest time for one statement
    transaction_timeout: 1m    # and for one transaction
    max_parked: 500            # messages that may wait for rows theirs refer to
    dead_letter_ttl: 240h      # time that the broker keeps dead letters
    tombstone_retention: 720h  # time to remember deleted keys
    workers: 8                 # handlers at a time, in a service's own binary
    entities: [account]        # the only ones to follow here
    ignore: [invoice]          # entities whose messages are thrown away

Any number may run on one queue and share the work.`,
		Example: `  relay consume --config lockstep.yaml --database-url postgres://localhost/billing --broker-url amqp://localhost/`,
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return s.consume(cmd, cfg, onlyDirect, h) },
	}
	s.databaseFlag(cmd)
	s.brokerFlag(cmd)
	s.configFlag(cmd)
	s.logFlags(cmd)
	h.flags(cmd)
	cmd.Flags().StringVar(&cfg.Queue, "queue", "", "`name` of the queue (default: the file's)")
	consumeFlags(cmd, &cfg)
	cmd.Flags().BoolVar(&onlyDirect, flagOnlyDirectSyncs, false, "apply only SYNCs that are sent to this queue alone, for all tables")
	cmd.Flags().DurationVar(&cfg.DrainTimeout, flagDrain, 30*time.Second, "longest `time` to finish what is in hand when interrupted")
	return cmd
}

// Flags that run and consume have in common.
const (
	flagBatchSize = "batch-size"
	flagDrain     = "drain"
)

func (s *settings) consume(cmd *cobra.Command, cfg consumer.Config, onlyDirect bool, h health) error {
	err := errors.Join(
		s.fill(cmd, s.withConfig(flagDatabase, flagBroker)...),
		checkConsumeFlags(cmd, &cfg),
		h.check(),
	)
	if err != nil {
		return err
	}
	file, err := s.readConfig()
	if err != nil {
		return err
	}
	file.onlyDirectSyncs = onlyDirect
	inFile, _ := file.consuming() // read and checked with the file
	if cfg = overFile(cmd, cfg, inFile); cfg.Queue == "" {
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
	if err := errors.Join(file.declareTo(cfg), file.checkNames(cfg.Entities, cfg.Ignore)); err != nil {
		return &misuseError{err: err}
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
	return c, open.close, file.words(c.Check(ctx))
}
