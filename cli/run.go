package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-go/lockstep/broker"
	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/relay"
)

func newRun() *cobra.Command {
	var s settings
	var cfg relay.Config
	var broadcast, direct string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Forward the outbox to the broker until interrupted",
		Long: `Forward the outbox to the broker until interrupted. Ctrl-C finishes what is
under way; a second one ends at once. Any number may run on one outbox: one
works, the others stand by.`,
		Example: `  relay run --database-url postgres://localhost/shop --broker-url amqp://localhost/`,
		Args:    misused(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.UnroutableBroadcast, cfg.UnroutableDirect = relay.Unroutable(broadcast), relay.Unroutable(direct)
			return s.run(cmd, cfg)
		},
	}
	s.databaseFlag(cmd)
	s.brokerFlag(cmd)
	s.configFlag(cmd)
	s.logFlags(cmd)
	f := cmd.Flags()
	f.IntVar(&cfg.BatchSize, "batch-size", 500, "`rows` that are read at once")
	f.DurationVar(&cfg.Poll, "poll", 200*time.Millisecond, "longest `time` an idle relay waits before it looks again")
	f.DurationVar(&cfg.LeaseTTL, "lease", 10*time.Second, "`time` after which another relay takes over from one that died")
	f.IntVar(&cfg.MaxAttempts, "max-attempts", 25, "`times` the broker may refuse a message before it moves to outbox_dead")
	f.StringVar(&broadcast, "unroutable", string(relay.Drop), "what becomes of events that no queue is bound to: drop, retry or dead")
	f.StringVar(&direct, "unroutable-direct", string(relay.Retry), "the same for messages to a single queue")
	f.DurationVar(&cfg.DrainTimeout, "drain", 30*time.Second, "longest `time` to finish what is under way when interrupted")
	return cmd
}

func (s *settings) run(cmd *cobra.Command, cfg relay.Config) error {
	if err := s.fill(flagDatabase, flagBroker); err != nil {
		return err
	}
	file, err := readConfig(s.config)
	if err != nil {
		return err
	}
	ctx, log := cmd.Context(), s.logger(cmd)
	db, err := openDatabase(ctx, s.databaseURL)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	cfg.Dialect, cfg.Logger = db.dialect, log
	if db.dialect == migrations.Postgres {
		cfg.Wake = relay.Listen(ctx, db.dsn, log)
	}
	if err := file.checkEntities(ctx, db); err != nil {
		return err
	}
	b, err := s.openBroker(ctx, broker.Options{Logger: log})
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }()
	r, err := relay.New(db.DB, b, cfg)
	if err != nil {
		return &misuseError{err: err}
	}
	if err := r.Check(ctx); err != nil {
		return err
	}
	return r.Run(ctx)
}

// openBroker connects to the broker of the settings.
func (s *settings) openBroker(ctx context.Context, options broker.Options) (broker.Broker, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	b, err := broker.Open(ctx, s.brokerURL, options)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flagBroker, err)
	}
	return b, nil
}
