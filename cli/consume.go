package cli

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-go/lockstep/broker"
	"github.com/lockstep-go/lockstep/consumer"
)

func newConsume() *cobra.Command {
	var s settings
	var cfg consumer.Config
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
		Args:    misused(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return s.consume(cmd, cfg) },
	}
	s.databaseFlag(cmd)
	s.brokerFlag(cmd)
	s.configFlag(cmd)
	s.logFlags(cmd)
	cmd.Flags().StringVar(&cfg.Queue, "queue", "", "`name` of the queue (default: the file's)")
	cmd.Flags().IntVar(&cfg.BatchSize, "batch-size", 500, "`messages` that one transaction takes at most")
	cmd.Flags().DurationVar(&cfg.DrainTimeout, "drain", 30*time.Second, "longest `time` to finish what is in hand when interrupted")
	return cmd
}

func (s *settings) consume(cmd *cobra.Command, cfg consumer.Config) error {
	if err := s.fill(flagDatabase, flagBroker, flagConfig); err != nil {
		return err
	}
	file, err := readConfig(s.config)
	if err != nil {
		return err
	}
	if cfg.Queue == "" {
		cfg.Queue = file.Queue
	}
	if cfg.Queue == "" {
		return misusef("%s: queue is missing: name this replica's queue there or by --queue", s.config)
	}
	if len(file.Replicas) == 0 {
		return misusef("%s: replicas is missing: declare at least one table that follows an entity", s.config)
	}
	ctx, log := cmd.Context(), s.logger(cmd)
	db, err := openDatabase(ctx, s.databaseURL)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	b, err := s.openBroker(ctx, broker.Options{Logger: log})
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }()
	cfg.Dialect, cfg.Logger = db.dialect, log
	c, err := consumer.New(db.DB, b, cfg)
	if err == nil {
		err = file.addReplicas(c)
	}
	if err != nil {
		return &misuseError{err: err}
	}
	if err := c.Run(ctx); err != nil && !errors.Is(err, ctx.Err()) {
		return err
	}
	return nil
}
