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
		Args: noArgs,
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
	s.logLevel, s.brokerFrom = "warn", "--"+flagBroker
	return cmd
}

const flagReplica = "replica-url"

// check reports what is wrong with the flags. The demo takes servers from flags
// only: nobody wants it on a database that happens to be in the environment.
func (f *demoFlags) check(s *settings) error {
	faults := []error{s.checkLog()}
	for _, url := range []struct {
		flag, value string
		check       func(string) error
	}{{flagDatabase, s.databaseURL, checkDatabaseURL}, {flagReplica, f.replicaURL, checkDatabaseURL}, {flagBroker, s.brokerURL, checkBrokerURL}} {
		if url.value == "" {
			continue
		}
		if err := url.check(url.value); err != nil {
			faults = append(faults, misusef("--%s: %w", url.flag, err))
		}
	}
	if f.duration < 0 {
		faults = append(faults, misusef("--for is %v: use a positive time", f.duration))
	}
	if f.rate < 0 {
		faults = append(faults, misusef("--rate is %d: use a positive number, or 0 for as many as possible", f.rate))
	}
	return errors.Join(faults...)
}

func (s *settings) demo(cmd *cobra.Command, f demoFlags) error {
	if err := f.check(s); err != nil {
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
		cfg.View, cfg.Size = cmd.OutOrStdout(), terminalSize(cmd)
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
		s.brokerFrom, cfg.BrokerName = "demo", "embedded JetStream"
	}
	b, err := s.openBroker(ctx, broker.Options{Logger: log})
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }()
	if cfg.BrokerName == "" {
		cfg.BrokerName = brokerName(s.brokerURL)
	}
	if master.dialect == migrations.Postgres {
		cfg.Wake = relay.Listen(ctx, master.dsn, log)
	}
	cfg.Broker, cfg.Master, cfg.Replica = b, master.side(), replica.side()
	result, err := demo.Run(ctx, cfg)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
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
		fmt.Fprintf(cmd.OutOrStdout(), "\n%d events written in %d transactions, %d more rolled back.\n%d published, %d applied; %d rows in the master.\n",
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

// terminalSize returns what asks for the size of the terminal that the command
// writes to, or nil when it writes to something else.
func terminalSize(cmd *cobra.Command) func() (width, height int) {
	f, ok := cmd.OutOrStdout().(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return func() (width, height int) {
		width, height, err := term.GetSize(int(f.Fd()))
		if err != nil {
			return 0, 0
		}
		return width, height
	}
}
