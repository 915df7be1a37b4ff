package cli

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/outbox"
)

// configFile is lockstep.yaml: what the command needs to act for a service that
// has no code of its own for it.
type configFile struct {
	// Entities are the master's side.
	Entities map[string]entityConfig `yaml:"entities"`
	// Queue and Replicas are the replica's side.
	Queue    string                   `yaml:"queue"`
	Replicas map[string]replicaConfig `yaml:"replicas"`
}

type entityConfig struct {
	Table  string        `yaml:"table"`
	Key    string        `yaml:"key"`
	Fields []string      `yaml:"fields"`
	TTL    time.Duration `yaml:"ttl"`
}

type replicaConfig struct {
	Table   string            `yaml:"table"`
	Key     string            `yaml:"key"`
	Columns map[string]string `yaml:"columns"`
	// MaxRetries: 0 is none, -1 for ever; without it the consumer's default.
	MaxRetries *int          `yaml:"max_retries"`
	RetryDelay time.Duration `yaml:"retry_delay"`
}

// readConfig reads the file and checks what can be checked without a database.
// No path gives an empty configuration. Every error is one of misuse.
func readConfig(path string) (*configFile, error) {
	var file configFile
	if path == "" {
		return &file, nil
	}
	f, err := os.Open(path) //nolint:gosec // the user names the file
	if err != nil {
		return nil, misusef("--%s: %w", flagConfig, err)
	}
	defer func() { _ = f.Close() }()
	decoder := yaml.NewDecoder(f, yaml.Strict())
	if err := decoder.Decode(&file); err != nil && !errors.Is(err, io.EOF) {
		var twice *yaml.DuplicateKeyError
		if errors.As(err, &twice) {
			return nil, misusef("%s: a name is declared twice; a CQRS ID names one entity and one replica:\n%s", path, yaml.FormatError(err, false, true))
		}
		return nil, misusef("%s: %s", path, strings.TrimSpace(yaml.FormatError(err, false, true)))
	}
	if len(file.Entities) > 0 {
		if _, err := file.outbox(outbox.Postgres); err != nil {
			return nil, misusef("%s: %w", path, err)
		}
	}
	return &file, nil
}

// outbox returns the master's side.
func (f *configFile) outbox(d outbox.Dialect) (*outbox.Outbox, error) {
	cfg := outbox.Config{Dialect: d}
	for _, id := range slices.Sorted(maps.Keys(f.Entities)) {
		e := f.Entities[id]
		cfg.Entities = append(cfg.Entities, outbox.Entity{ID: id, Table: e.Table, Key: e.Key, Fields: e.Fields, TTL: e.TTL})
	}
	return outbox.New(cfg)
}

// checkEntities compares the entities with the database.
func (f *configFile) checkEntities(ctx context.Context, db *database) error {
	if len(f.Entities) == 0 {
		return nil
	}
	ob, err := f.outbox(db.dialect)
	if err != nil {
		return &misuseError{err: err}
	}
	return ob.Check(ctx, db.DB)
}

// addReplicas declares the replica's side to a consumer.
func (f *configFile) addReplicas(c *consumer.Consumer) error {
	var faults []error
	for _, id := range slices.Sorted(maps.Keys(f.Replicas)) {
		r := f.Replicas[id]
		table := consumer.Table{Name: r.Table, Key: r.Key, Columns: r.Columns, RetryDelay: r.RetryDelay}
		if r.MaxRetries != nil {
			table.MaxRetries = retries(*r.MaxRetries)
		}
		if err := c.Table(id, table); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// retries turns the file's number into the consumer's, where 0 is the default.
func retries(n int) int {
	if n == 0 {
		return consumer.NoRetries
	}
	return n
}
