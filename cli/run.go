package cli

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-go/lockstep/broker"
	"github.com/lockstep-go/lockstep/metrics"
	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/relay"
)

func newRun(svc *service) *cobra.Command {
	s := settings{service: svc}
	var cfg relay.Config
	var h health
	var broadcast, direct string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Forward the outbox to the broker until interrupted",
		Long: `Forward the outbox to the broker until interrupted. Ctrl-C finishes what is
under way; a second one ends at once. Any number may run on one outbox: one
works, the others stand by.`,
		Example: `  relay run --database-url postgres://localhost/shop --broker-url amqp://localhost/`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.UnroutableBroadcast, cfg.UnroutableDirect = relay.Unroutable(broadcast), relay.Unroutable(direct)
			return s.run(cmd, cfg, h)
		},
	}
	s.databaseFlag(cmd)
	s.brokerFlag(cmd)
	s.configFlag(cmd)
	s.logFlags(cmd)
	h.flags(cmd)
	f := cmd.Flags()
	f.IntVar(&cfg.BatchSize, flagBatchSize, 500, "`rows` that are read at once")
	f.DurationVar(&cfg.Poll, "poll", 200*time.Millisecond, "longest `time` an idle relay waits before it looks again")
	f.DurationVar(&cfg.LeaseTTL, "lease", 10*time.Second, "`time` after which another relay takes over from one that died")
	f.IntVar(&cfg.Shards, "shards", 0, "`number` of parts that relays share the outbox in, for all of them (0: leave it as it is; at first 1)")
	f.IntVar(&cfg.MaxAttempts, "max-attempts", 25, "`times` the broker may refuse a message before it moves to outbox_dead")
	f.StringVar(&broadcast, "unroutable", string(relay.Drop), "`what` becomes of events that no queue is bound to: drop, retry or dead")
	f.StringVar(&direct, "unroutable-direct", string(relay.Retry), "`what` becomes of messages to a single queue: drop, retry or dead")
	f.BoolVar(&cfg.Collapse, "collapse", false, "when behind, send only the newest event of a key")
	f.DurationVar(&cfg.DrainTimeout, flagDrain, 30*time.Second, "longest `time` to finish what is under way when interrupted")
	return cmd
}

func (s *settings) run(cmd *cobra.Command, cfg relay.Config, h health) error {
	known := []string{string(relay.Drop), string(relay.Retry), string(relay.Dead)}
	err := errors.Join(
		s.fill(cmd, flagDatabase, flagBroker),
		atLeast(flagBatchSize, cfg.BatchSize, 1),
		atLeast("poll", cfg.Poll, time.Millisecond),
		atLeast("lease", cfg.LeaseTTL, time.Second),
		atLeast("shards", cfg.Shards, 0),
		atLeast("max-attempts", cfg.MaxAttempts, 1),
		atLeast(flagDrain, cfg.DrainTimeout, time.Millisecond),
		oneOf("unroutable", string(cfg.UnroutableBroadcast), known...),
		oneOf("unroutable-direct", string(cfg.UnroutableDirect), known...),
		h.check(),
	)
	if err != nil {
		return err
	}
	file, err := s.readConfig()
	if err != nil {
		return err
	}
	if h.address != "" {
		cfg.Look = min(lookEvery, h.limit/2)
	}
	ctx, log := cmd.Context(), s.logger(cmd)
	r, done, err := s.newRelay(ctx, log, cfg, file)
	defer done()
	switch {
	case err != nil && ctx.Err() != nil:
		return nil // it was asked to end before it began
	case err != nil:
		return err
	}
	stop, err := h.serve(ctx, log, metrics.Relay(r, h.limit))
	if err != nil {
		return err
	}
	defer stop()
	return r.Run(ctx)
}

// newRelay connects to both sides and checks them. done closes what it opened,
// also beside an error.
func (s *settings) newRelay(ctx context.Context, log *slog.Logger, cfg relay.Config, file *configFile) (r *relay.Relay, done func(), err error) {
	var open closers
	db, err := openDatabase(ctx, s.databaseURL)
	if err != nil {
		return nil, open.close, err
	}
	open.add(db)
	if err := file.checkEntities(ctx, db); err != nil {
		return nil, open.close, err
	}
	b, err := s.openBroker(ctx, broker.Options{Logger: log})
	if err != nil {
		return nil, open.close, err
	}
	open.add(b)
	cfg.Dialect, cfg.Logger = db.dialect, log
	if db.dialect == migrations.Postgres {
		listening, stop := context.WithCancel(ctx)
		open.add(closer(stop))
		cfg.Wake = relay.Listen(listening, db.dsn, log)
	}
	r, err = relay.New(db.DB, b, cfg)
	if err != nil {
		return nil, open.close, &misuseError{err: err}
	}
	return r, open.close, r.Check(ctx)
}

// closers closes what was opened, the last first.
type closers []io.Closer

// closer closes by a call that cannot fail.
type closer func()

// Close calls it.
func (c closer) Close() error { c(); return nil }

func (c *closers) add(one io.Closer) { *c = append(*c, one) }

func (c *closers) close() {
	for _, one := range slices.Backward(*c) {
		_ = one.Close() // what it held was confirmed or stays where it was
	}
}
