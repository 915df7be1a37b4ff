package cli

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/event"
)

// consumeConfig is a consumer.Config as the file has it.
type consumeConfig struct {
	BatchSize          *int     `yaml:"batch_size"`
	Workers            *int     `yaml:"workers"`
	MaxParked          *int     `yaml:"max_parked"`
	StatementTimeout   duration `yaml:"statement_timeout"`
	TransactionTimeout duration `yaml:"transaction_timeout"`
	DeadLetterTTL      duration `yaml:"dead_letter_ttl"`
	TombstoneRetention duration `yaml:"tombstone_retention"`
	Entities           []string `yaml:"entities"`
	Ignore             []string `yaml:"ignore"`
}

// consuming returns the file's settings of a consumer, and all that is wrong with them.
func (f *configFile) consuming() (cfg consumer.Config, err error) {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("consume: "+format, args...))
	}
	for _, n := range []struct {
		name string
		from *int
		to   *int
	}{
		{"batch_size", f.Consume.BatchSize, &cfg.BatchSize},
		{"workers", f.Consume.Workers, &cfg.Workers},
		{"max_parked", f.Consume.MaxParked, &cfg.MaxParked},
	} {
		if n.from == nil {
			continue
		}
		if *n.to = *n.from; *n.from < 1 {
			fault("%s is %d: use 1 or more", n.name, *n.from)
			*n.to = 0
		}
	}
	for _, d := range []struct {
		name string
		from duration
		to   *time.Duration
	}{
		{"statement_timeout", f.Consume.StatementTimeout, &cfg.StatementTimeout},
		{"transaction_timeout", f.Consume.TransactionTimeout, &cfg.TransactionTimeout},
		{"dead_letter_ttl", f.Consume.DeadLetterTTL, &cfg.DeadLetterTTL},
		{"tombstone_retention", f.Consume.TombstoneRetention, &cfg.TombstoneRetention},
	} {
		var err error
		if *d.to, err = d.from.read(); err != nil {
			fault("%s %w", d.name, err)
		} else if *d.to > 0 && *d.to < time.Millisecond {
			fault("%s is %s: use 1ms or more", d.name, *d.to)
			*d.to = 0
		}
	}
	cfg.Entities, cfg.Ignore = f.Consume.Entities, f.Consume.Ignore
	return cfg, errors.Join(faults...)
}

// checkNames checks the names of entities that are chosen or ignored.
func (f *configFile) checkNames(entities, ignore []string) error {
	var faults []error
	for _, id := range entities {
		if _, declared := f.Replicas[id]; !declared && f.code.replicas == nil {
			faults = append(faults, fmt.Errorf("entities has %q, which is none of the replicas: %v", id, slices.Sorted(maps.Keys(f.Replicas))))
		}
	}
	for _, id := range ignore {
		if _, declared := f.Replicas[id]; declared {
			faults = append(faults, fmt.Errorf("ignore has %q, which is one of the replicas: take it out of either", id))
		} else if err := event.ValidateName("the name", id); err != nil {
			faults = append(faults, fmt.Errorf("ignore: %w", err))
		}
	}
	return errors.Join(faults...)
}

// Flags of consume that stand over the file's section of that name.
const (
	flagWorkers            = "workers"
	flagMaxParked          = "max-parked"
	flagStatementTimeout   = "statement-timeout"
	flagTransactionTimeout = "transaction-timeout"
	flagTombstoneRetention = "tombstone-retention"
	flagDeadLetterTTL      = "dead-letter-ttl"
	flagEntities           = "entities"
	flagIgnore             = "ignore"
	flagOnlyDirectSyncs    = "only-direct-syncs"
)

// consumeFlags declares them. Their defaults are the consumer's.
func consumeFlags(cmd *cobra.Command, cfg *consumer.Config) {
	f := cmd.Flags()
	f.IntVar(&cfg.BatchSize, flagBatchSize, 1000, "`messages` that one transaction takes at most")
	f.IntVar(&cfg.Workers, flagWorkers, 8, "`number` of handlers at a time, where a service's own binary has any")
	f.IntVar(&cfg.MaxParked, flagMaxParked, 500, "`messages` that may wait for rows which theirs refer to")
	f.DurationVar(&cfg.StatementTimeout, flagStatementTimeout, 0, "longest `time` for one statement (default: the transaction's minute)")
	f.DurationVar(&cfg.TransactionTimeout, flagTransactionTimeout, time.Minute, "longest `time` for one attempt at a transaction; a longer one counts as an outage")
	f.DurationVar(&cfg.TombstoneRetention, flagTombstoneRetention, 30*24*time.Hour, "`time` to remember deleted keys; longer than any message may live")
	f.DurationVar(&cfg.DeadLetterTTL, flagDeadLetterTTL, 10*24*time.Hour, "`time` that the broker keeps dead letters")
	f.StringSliceVar(&cfg.Entities, flagEntities, nil, "`names` of the only entities to follow here, with commas (default: all)")
	f.StringSliceVar(&cfg.Ignore, flagIgnore, nil, "`names` of entities whose messages are thrown away, with commas")
}

// checkConsumeFlags reports values that make no sense.
func checkConsumeFlags(cmd *cobra.Command, cfg *consumer.Config) error {
	faults := []error{
		atLeast(flagBatchSize, cfg.BatchSize, 1), atLeast(flagWorkers, cfg.Workers, 1), atLeast(flagMaxParked, cfg.MaxParked, 1),
		atLeast(flagTransactionTimeout, cfg.TransactionTimeout, time.Millisecond),
		atLeast(flagTombstoneRetention, cfg.TombstoneRetention, time.Millisecond), atLeast(flagDeadLetterTTL, cfg.DeadLetterTTL, time.Millisecond),
		atLeast(flagDrain, cfg.DrainTimeout, time.Millisecond),
	}
	if cmd.Flags().Changed(flagStatementTimeout) {
		faults = append(faults, atLeast(flagStatementTimeout, cfg.StatementTimeout, time.Millisecond))
	}
	return errors.Join(faults...)
}

// overFile puts what was given as a flag over what the file says.
func overFile(cmd *cobra.Command, flags, file consumer.Config) consumer.Config {
	given := cmd.Flags().Changed
	file.Queue, file.DrainTimeout = flags.Queue, flags.DrainTimeout
	put(given(flagBatchSize), &file.BatchSize, flags.BatchSize)
	put(given(flagWorkers), &file.Workers, flags.Workers)
	put(given(flagMaxParked), &file.MaxParked, flags.MaxParked)
	put(given(flagStatementTimeout), &file.StatementTimeout, flags.StatementTimeout)
	put(given(flagTransactionTimeout), &file.TransactionTimeout, flags.TransactionTimeout)
	put(given(flagTombstoneRetention), &file.TombstoneRetention, flags.TombstoneRetention)
	put(given(flagDeadLetterTTL), &file.DeadLetterTTL, flags.DeadLetterTTL)
	put(given(flagEntities), &file.Entities, flags.Entities)
	put(given(flagIgnore), &file.Ignore, flags.Ignore)
	return file
}

func put[T any](given bool, into *T, value T) {
	if given {
		*into = value
	}
}
