package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/lockstep-go/lockstep/broker"
	"github.com/lockstep-go/lockstep/cli/demo"
	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/relay"
)

// demoFlags are what the demo command takes beside the settings.
type demoFlags struct {
	replicaURL string
	duration   time.Duration
	rate       int
}

func newDemo() *cobra.Command {
	var s settings
	var f demoFlags
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "See it work: a master, a relay and a replica in one process",
		Long: `See it work: a master service that creates, updates and deletes accounts and
authors, a relay, and a replica service with tables of its own.

Without flags everything runs in this process, on SQLite files and an embedded
NATS JetStream in a temporary folder, until Ctrl-C. At the end the demo waits for
the replica to catch up and compares every row; it fails when the sides differ.

On PostgreSQL it works in schemas of its own, lockstep_demo_master and
lockstep_demo_replica, which it makes anew at each start and leaves for you to
look at.`,
		Example: `  relay demo --for 5s --json
  relay demo --database-url postgres://localhost/shop --replica-url postgres://localhost/billing --broker-url amqp://localhost/`,
		Args: misused(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return s.demo(cmd, f) },
	}
	cmd.Flags().StringVar(&s.databaseURL, flagDatabase, "", "`URL` of the master's database (default: a temporary SQLite file)")
	cmd.Flags().StringVar(&f.replicaURL, flagReplica, "", "`URL` of the replica's database (default: a temporary SQLite file)")
	cmd.Flags().StringVar(&s.brokerURL, flagBroker, "", "`URL` of the broker (default: an embedded NATS JetStream)")
	cmd.Flags().DurationVar(&f.duration, "for", 0, "how long the master writes, such as 5s (default: until Ctrl-C)")
	cmd.Flags().IntVar(&f.rate, "rate", 500, "`transactions` a second; 0 for as many as possible")
	s.logFlags(cmd)
	s.jsonFlag(cmd)
	cmd.Flags().Lookup(flagLogLevel).DefValue = "warn"
	s.logLevel = "warn"
	return cmd
}

const flagReplica = "replica-url"

func (f *demoFlags) check() error {
	var faults []error
	if f.duration < 0 {
		faults = append(faults, misusef("--for is %v: use a positive time", f.duration))
	}
	if f.rate < 0 {
		faults = append(faults, misusef("--rate is %d: use a positive number, or 0 for as many as possible", f.rate))
	}
	if f.replicaURL != "" {
		if _, err := parseDatabaseURL(f.replicaURL); err != nil {
			faults = append(faults, misusef("--%s: %w", flagReplica, err))
		}
	}
	return errors.Join(faults...)
}

func (s *settings) demo(cmd *cobra.Command, f demoFlags) error {
	// The demo takes servers from flags only: nobody wants it on a database that
	// happens to be in the environment.
	if err := errors.Join(s.check(), f.check()); err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "lockstep-demo-")
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer func() { _ = os.RemoveAll(folder) }()

	ctx, log := cmd.Context(), s.logger(cmd)
	cfg := demo.Config{For: f.duration, Rate: f.rate, Log: log}
	if !s.asJSON {
		cfg.View, cfg.Terminal = cmd.OutOrStdout(), isTerminal(cmd)
	}
	master, err := openDemoDatabase(cmd, s.databaseURL, folder, "master")
	if err != nil {
		return err
	}
	defer func() { _ = master.Close() }()
	replica, err := openDemoDatabase(cmd, f.replicaURL, folder, "replica")
	if err != nil {
		return err
	}
	defer func() { _ = replica.Close() }()
	if s.brokerURL == "" {
		s.brokerURL = "jetstream+embedded://" + filepath.ToSlash(folder) + "/jetstream"
		cfg.BrokerName = "embedded JetStream"
	}
	b, err := s.openBroker(ctx, broker.Options{Logger: log})
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }()
	if cfg.BrokerName == "" {
		cfg.BrokerName = schemeOf(s.brokerURL)
	}
	if master.dialect == migrations.Postgres {
		cfg.Wake = relay.Listen(ctx, master.dsn, log)
	}
	cfg.Broker, cfg.Master, cfg.Replica = b, master.side(), replica.side()
	result, err := demo.Run(ctx, cfg)
	if err != nil {
		return err
	}
	return report(cmd, s.asJSON, result)
}

// report prints the result; sides that differ are a failure.
func report(cmd *cobra.Command, asJSON bool, r demo.Result) error {
	if asJSON {
		if err := printJSON(cmd, r); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(cmd.OutOrStdout(), "\n%d events written in %d transactions (%d more were rolled back), %d published, %d applied; %d rows on each side.\n",
			r.Written, r.Transactions, r.RolledBack, r.Published, r.Applied, r.Rows)
	}
	if !r.Converged {
		return fmt.Errorf("demo: the replica differs from the master: %s", r.Difference)
	}
	if !asJSON {
		fmt.Fprintln(cmd.OutOrStdout(), "Every row of the replica equals the master's.")
	}
	return nil
}

func isTerminal(cmd *cobra.Command) bool {
	f, ok := cmd.OutOrStdout().(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) //nolint:gosec // a file descriptor fits
}
