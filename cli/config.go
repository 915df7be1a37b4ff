package cli

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/goccy/go-yaml"

	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/outbox"
)

// configFile is lockstep.yaml: what the command needs to act for a service that
// has no code of its own for it.
type configFile struct {
	path string
	code service
	// onlyDirectSyncs holds for all replicas: a flag.
	onlyDirectSyncs bool
	// Entities are the master's side.
	Entities map[string]entityConfig `yaml:"entities"`
	// MaxPayload is how many bytes an event may have; without it the outbox's default.
	MaxPayload int64 `yaml:"max_payload"`
	// Queue, Consume and Replicas are the replica's side.
	Queue    string                   `yaml:"queue"`
	Consume  consumeConfig            `yaml:"consume"`
	Replicas map[string]replicaConfig `yaml:"replicas"`
}

// entityConfig is an outbox.Entity without what only code can say.
type entityConfig struct {
	Table     string      `yaml:"table"`
	Key       columnNames `yaml:"key"`
	Fields    []string    `yaml:"fields"`
	Tracked   columnNames `yaml:"tracked"`
	Where     string      `yaml:"where"`
	Leave     string      `yaml:"leave"`
	Decimals  string      `yaml:"decimals"`
	NonFinite string      `yaml:"non_finite"`
	Muted     bool        `yaml:"muted"`
	TTL       duration    `yaml:"ttl"`
}

func (e entityConfig) entity(id string, ttl time.Duration) outbox.Entity {
	return outbox.Entity{
		ID: id, Table: e.Table, Keys: e.Key, Fields: e.Fields, Tracked: e.Tracked, Where: e.Where,
		Leave: outbox.Leave(e.Leave), Decimals: outbox.Decimals(e.Decimals), NonFinite: outbox.NonFinite(e.NonFinite),
		Muted: e.Muted, TTL: ttl,
	}
}

type replicaConfig struct {
	Table   string            `yaml:"table"`
	Key     columnNames       `yaml:"key"`
	Columns map[string]string `yaml:"columns"`
	// MaxRetries: 0 is none, -1 for ever; without it the consumer's default.
	MaxRetries *int     `yaml:"max_retries"`
	RetryDelay duration `yaml:"retry_delay"`
	// OnlyDirectSyncs leaves out SYNCs for all replicas.
	OnlyDirectSyncs bool `yaml:"only_direct_syncs"`
}

// columnNames are the name of a column, or a list of them.
type columnNames []string

// UnmarshalYAML reads either form.
func (k *columnNames) UnmarshalYAML(unmarshal func(any) error) error {
	var one string
	if unmarshal(&one) == nil {
		*k = columnNames{one}
		return nil
	}
	return unmarshal((*[]string)(k))
}

// duration is a time as it is written in the file. The YAML package would take
// it by itself, but its errors speak of Go.
type duration string

// read returns the time, which has to be longer than 0; 0 when nothing is written.
func (d duration) read() (time.Duration, error) {
	if d == "" {
		return 0, nil
	}
	t, err := time.ParseDuration(string(d))
	if err == nil && t <= 0 {
		return 0, fmt.Errorf("is %q: use a time above zero, or leave it out", string(d))
	}
	if err != nil {
		return 0, fmt.Errorf("is %q: use a time with its unit, such as 2s, 5m or 24h", string(d))
	}
	return t, nil
}

// readConfig reads the file and checks what can be checked without a database,
// and reports all faults at once, as misuse. No path gives an empty
// configuration.
func readConfig(path string) (*configFile, error) {
	file := configFile{path: path}
	if path == "" {
		return &file, nil
	}
	text, err := os.ReadFile(path) //nolint:gosec // the user names the file
	if err != nil {
		return nil, misusef("--%s: %w", flagConfig, err)
	}
	if err := checkKeys(text); err != nil {
		return nil, misusef("%s: %w", path, err)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict())
	if err := decoder.Decode(&file); err != nil && !errors.Is(err, io.EOF) {
		return nil, misusef("%s: %s", path, strings.TrimSpace(explainYAML(err)))
	}
	var faults []error
	for _, err := range []error{file.checkQueue(), file.declareEntities(), file.declareReplicas()} {
		if err != nil {
			faults = append(faults, misusef("%s: %w", path, err))
		}
	}
	return &file, errors.Join(faults...)
}

func (f *configFile) checkQueue() error {
	if f.Queue == "" {
		return nil // only consume needs one, and has a flag for it
	}
	return event.ValidateName("queue", f.Queue)
}

func (f *configFile) declareEntities() error {
	if len(f.Entities) == 0 {
		return nil
	}
	_, err := f.outbox(outbox.Postgres)
	return err
}

// declareReplicas checks the replica's side.
func (f *configFile) declareReplicas() error {
	cfg, err := f.consuming()
	cfg.TombstoneRetention = anyRetention
	return errors.Join(err, f.declareTo(cfg))
}

// anyRetention is longer than any message lives, for what only reads and loads.
const anyRetention = math.MaxInt64 * time.Nanosecond

// declareTo declares the file's replicas to a consumer that is never run.
func (f *configFile) declareTo(cfg consumer.Config) error {
	c, err := idleConsumer(new(sql.DB), cfg)
	if err != nil {
		return err
	}
	alone := *f
	alone.code = service{}
	return alone.addReplicas(c)
}

// idleConsumer returns a consumer that is never run, to ask what is declared to it. It
// needs no queue, nor a dialect while nothing is asked of its database.
func idleConsumer(db *sql.DB, cfg consumer.Config) (*consumer.Consumer, error) {
	cfg.Queue, cfg.Dialect = cmp.Or(cfg.Queue, "unnamed"), cmp.Or(cfg.Dialect, consumer.Postgres)
	return consumer.New(db, noBroker{}, cfg)
}

// noBroker stands where a broker has to be and nothing is sent.
type noBroker struct {
	message.Publisher
	message.Subscriber
}

// Close has nothing to close.
func (noBroker) Close() error { return nil }

// outbox returns the master's side.
func (f *configFile) outbox(d outbox.Dialect) (*outbox.Outbox, error) {
	cfg := outbox.Config{Dialect: d, Entities: f.declared(), MaxPayload: f.MaxPayload}
	var faults []error
	for _, id := range slices.Sorted(maps.Keys(f.Entities)) {
		e := f.Entities[id]
		if slices.ContainsFunc(f.code.entities, func(of outbox.Entity) bool { return of.ID == id }) {
			faults = append(faults, f.declaredTwice("entities", id))
			continue
		}
		ttl, err := e.TTL.read()
		if err != nil {
			faults = append(faults, fmt.Errorf("entities: %s: ttl %w", id, err))
		}
		cfg.Entities = append(cfg.Entities, e.entity(id, ttl))
	}
	ob, err := outbox.New(cfg)
	return ob, errors.Join(append(faults, f.words(err))...)
}

func (f *configFile) declaredTwice(section, id string) error {
	return fmt.Errorf("%s: %s: %s is declared by the service's code: take it out of the file", f.path, section, id)
}

// checkEntities compares the entities with the database.
func (f *configFile) checkEntities(ctx context.Context, db *database) error {
	if !f.hasEntities() {
		return nil
	}
	ob, err := f.outbox(db.dialect)
	if err != nil {
		return misusef("%s: %w", f.path, err)
	}
	if err := ob.CheckTables(ctx, db.DB); err != nil {
		return f.words(err)
	}
	return nil
}

// words puts an error of the library into the file's words, unless it may be about
// what code declares.
func (f *configFile) words(err error) error {
	if err == nil || f.path == "" || len(f.code.entities) > 0 || f.code.replicas != nil {
		return err
	}
	return inFile{err}
}

// addReplicas declares the replica's side to a consumer.
func (f *configFile) addReplicas(c *consumer.Consumer) error {
	var faults []error
	fault := func(id, format string, args ...any) {
		faults = append(faults, fmt.Errorf("replicas: %s: "+format, append([]any{id}, args...)...))
	}
	twice := f.replicasOfCode()
	for _, id := range slices.Sorted(maps.Keys(f.Replicas)) {
		if twice(id) {
			faults = append(faults, f.declaredTwice("replicas", id))
			continue
		}
		r := f.Replicas[id]
		delay, err := r.RetryDelay.read()
		if err != nil {
			fault(id, "retry_delay %w", err)
		}
		table := consumer.Table{Name: r.Table, Keys: r.Key, Columns: r.Columns, RetryDelay: delay, OnlyDirectSyncs: r.OnlyDirectSyncs || f.onlyDirectSyncs}
		if n := r.MaxRetries; n != nil {
			if *n < consumer.RetryForever {
				fault(id, "max_retries is %d: use 0 for none, -1 for ever, or how many", *n)
			}
			table.MaxRetries = retries(*n)
		}
		if r.Table == "" {
			fault(id, "table is missing: name the table that follows the entity")
			continue
		}
		if err := c.Table(id, table); err != nil {
			faults = append(faults, f.words(err))
		}
	}
	if f.code.replicas != nil {
		faults = append(faults, f.code.replicas(c))
	}
	return errors.Join(faults...)
}

// retries turns the file's number into the consumer's, where 0 is the default.
func retries(n int) int {
	switch {
	case n == 0:
		return consumer.NoRetries
	case n < consumer.RetryForever:
		return 0 // reported already
	}
	return n
}
