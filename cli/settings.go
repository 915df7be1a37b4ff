package cli

import (
	"errors"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
)

// settings are what several commands share. Empty text means unset.
type settings struct {
	databaseURL string
	brokerURL   string
	config      string
	logLevel    string
	logFormat   string
	asJSON      bool
}

// Flags, and the environment variables behind them.
const (
	flagDatabase  = "database-url"
	flagBroker    = "broker-url"
	flagConfig    = "config"
	flagLogLevel  = "log-level"
	flagLogFormat = "log-format"
	flagJSON      = "json"

	envDatabase = "LOCKSTEP_DATABASE_URL"
	envBroker   = "LOCKSTEP_BROKER_URL"
	envConfig   = "LOCKSTEP_CONFIG"
)

func (s *settings) databaseFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.databaseURL, flagDatabase, "", "`URL` of the database: postgres://… or sqlite:///path ($"+envDatabase+")")
}

func (s *settings) brokerFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.brokerURL, flagBroker, "", "`URL` of the broker: amqp(s)://…, nats://… or jetstream+embedded:///path ($"+envBroker+")")
}

func (s *settings) configFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.config, flagConfig, "", "`file` that declares entities and replicas ($"+envConfig+")")
}

func (s *settings) logFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.logLevel, flagLogLevel, "info", "least `level` that is logged: debug, info, warn or error")
	cmd.Flags().StringVar(&s.logFormat, flagLogFormat, "text", "`format` of the log: text or json")
}

func (s *settings) jsonFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&s.asJSON, flagJSON, false, "print the result as JSON")
}

// fill takes what no flag said from the environment, and reports all that is
// missing or wrong at once. required names flags that must have a value.
func (s *settings) fill(required ...string) error {
	var faults []error
	for _, v := range []struct {
		field     *string
		flag, env string
	}{{&s.databaseURL, flagDatabase, envDatabase}, {&s.brokerURL, flagBroker, envBroker}, {&s.config, flagConfig, envConfig}} {
		if *v.field == "" {
			*v.field = os.Getenv(v.env)
		}
		for _, name := range required {
			if name == v.flag && *v.field == "" {
				faults = append(faults, misusef("--%s is missing: give the flag or set %s", v.flag, v.env))
			}
		}
	}
	return errors.Join(append(faults, s.check())...)
}

// check reports settings that cannot be right.
func (s *settings) check() error {
	var faults []error
	if s.databaseURL != "" {
		if _, err := parseDatabaseURL(s.databaseURL); err != nil {
			faults = append(faults, misusef("--%s: %w", flagDatabase, err))
		}
	}
	if s.logFormat != "" && s.logFormat != "text" && s.logFormat != "json" {
		faults = append(faults, misusef("--%s is %q: use text or json", flagLogFormat, s.logFormat))
	}
	if err := new(slog.LevelVar).UnmarshalText([]byte(s.logLevel)); s.logLevel != "" && err != nil {
		faults = append(faults, misusef("--%s is %q: use debug, info, warn or error", flagLogLevel, s.logLevel))
	}
	return errors.Join(faults...)
}

// logger writes to the command's standard error.
func (s *settings) logger(cmd *cobra.Command) *slog.Logger {
	var level slog.LevelVar
	_ = level.UnmarshalText([]byte(s.logLevel)) // fill has checked it
	options := &slog.HandlerOptions{Level: &level}
	if s.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), options))
	}
	return slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), options))
}
