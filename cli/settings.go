package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-go/lockstep/broker"
)

// settings are what several commands share. Empty text means unset.
type settings struct {
	databaseURL string
	brokerURL   string
	config      string
	logLevel    string
	logFormat   string
	asJSON      bool
	service     *service // what code declares; may be nil

	// brokerFrom is where the broker's URL was read, for messages.
	brokerFrom string
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
	cmd.Flags().StringVar(&s.databaseURL, flagDatabase, "", "`URL` of the database: postgres://…, mysql://… or sqlite:///path ($"+envDatabase+")")
}

func (s *settings) brokerFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.brokerURL, flagBroker, "", "`URL` of the broker: amqp(s)://…, nats://…, postgres://… or jetstream+embedded:///path ($"+envBroker+")")
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
// missing or wrong at once. A flag that was given counts even if it is empty.
// Variables for flags that the command does not have are not looked at.
// required names flags that must have a value.
func (s *settings) fill(cmd *cobra.Command, required ...string) error {
	var faults []error
	for _, v := range []struct {
		field     *string
		flag, env string
		check     func(value string) error
	}{
		{&s.databaseURL, flagDatabase, envDatabase, checkDatabaseURL},
		{&s.brokerURL, flagBroker, envBroker, checkSharedBroker},
		{&s.config, flagConfig, envConfig, nil},
	} {
		flag := cmd.Flags().Lookup(v.flag)
		if flag == nil {
			continue
		}
		from := "--" + v.flag
		if !flag.Changed {
			if value := strings.TrimSpace(os.Getenv(v.env)); value != "" {
				*v.field, from = value, v.env
			}
		}
		if v.flag == flagBroker {
			s.brokerFrom = from
		}
		switch {
		case *v.field == "" && slices.Contains(required, v.flag):
			faults = append(faults, misusef("--%s is missing: give the flag or set %s", v.flag, v.env))
		case *v.field != "" && v.check != nil:
			if err := v.check(*v.field); err != nil {
				faults = append(faults, misusef("%s: %w", from, err))
			}
		}
	}
	return errors.Join(append(faults, s.checkLog())...)
}

func checkDatabaseURL(raw string) error {
	_, err := parseDatabaseURL(raw)
	return err
}

// checkOptionalURL checks a flag with a database's URL, if it is given.
func checkOptionalURL(flag, raw string) error {
	if raw == "" {
		return nil
	}
	if err := checkDatabaseURL(raw); err != nil {
		return misusef("--%s: %w", flag, err)
	}
	return nil
}

// checkSharedBroker refuses a broker that no other process can reach: a relay
// would take it for one that nobody listens to, and drop the events.
func checkSharedBroker(raw string) error {
	if strings.HasPrefix(raw, "memory:") {
		return errors.New("memory:// ends with this process and no other can reach it: use amqp:// or nats://")
	}
	return checkBrokerURL(raw)
}

func (s *settings) checkLog() error {
	var faults []error
	if s.logFormat != "" && s.logFormat != "text" && s.logFormat != "json" {
		faults = append(faults, misusef("--%s is %q: use text or json", flagLogFormat, s.logFormat))
	}
	if err := new(slog.LevelVar).UnmarshalText([]byte(s.logLevel)); s.logLevel != "" && err != nil {
		faults = append(faults, misusef("--%s is %q: use debug, info, warn or error", flagLogLevel, s.logLevel))
	}
	return errors.Join(faults...)
}

// atLeast reports a flag's value that is too small.
func atLeast[T int | time.Duration](flag string, value, least T) error {
	if value < least {
		return misusef("--%s is %v: use %v or more", flag, value, least)
	}
	return nil
}

// oneOf reports a flag's value that is none of the known ones.
func oneOf(flag, value string, known ...string) error {
	if !slices.Contains(known, value) {
		return misusef("--%s is %q: use %s or %s", flag, value, strings.Join(known[:len(known)-1], ", "), known[len(known)-1])
	}
	return nil
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

// openBroker connects to the broker of the settings.
func (s *settings) openBroker(ctx context.Context, options broker.Options) (broker.Broker, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	b, err := broker.Open(ctx, s.brokerURL, options)
	switch {
	case errors.Is(err, broker.ErrURL):
		return nil, misusef("%s: %w", s.brokerFrom, err)
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("%s: no answer in time: %w", s.brokerFrom, err)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", s.brokerFrom, err)
	}
	return b, nil
}

// openLetterbox connects to the broker for commands that look into its queues. box is
// the broker.
func (s *settings) openLetterbox(ctx context.Context, options broker.Options) (b broker.Broker, box broker.Letterbox, err error) {
	if b, err = s.openBroker(ctx, options); err != nil {
		return nil, nil, err
	}
	box, ok := b.(broker.Letterbox)
	if !ok {
		return nil, nil, errors.Join(errors.New("this broker cannot be looked into"), b.Close())
	}
	return b, box, nil
}
