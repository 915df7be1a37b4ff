package cli

import (
	"cmp"
	"database/sql"
	"slices"

	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/outbox"
)

// Option says what the commands in a service's own binary know of the service, so
// that it needs no lockstep.yaml:
//
//	root.AddCommand(cli.New(
//		cli.WithEntities(entities...),
//		cli.WithReplicas("billing", func(c *consumer.Consumer) error {
//			return c.Table("account", consumer.Table{Name: "account_ref"})
//		}),
//	))
//
// A configuration file is read beside it.
type Option func(*service)

// service is what code declares.
type service struct {
	entities []outbox.Entity
	queue    string
	replicas func(*consumer.Consumer) error
}

// WithEntities declares the entities that the service is the master of.
func WithEntities(entities ...outbox.Entity) Option {
	return func(s *service) { s.entities = append(s.entities, entities...) }
}

// WithReplicas names the service's queue and registers what follows entities in
// it. declare is called for each consumer that a command makes.
func WithReplicas(queue string, declare func(c *consumer.Consumer) error) Option {
	return func(s *service) { s.queue, s.replicas = queue, declare }
}

// readConfig reads the file of the settings, if there is one, and adds what code
// declares.
func (s *settings) readConfig() (*configFile, error) {
	file, err := readConfig(s.config)
	if err != nil || s.service == nil {
		return file, err
	}
	file.code = *s.service
	if file.Queue == "" {
		file.Queue = s.service.queue
	}
	return file, nil
}

// hasEntities and hasReplicas report whether anything is declared.
func (f *configFile) hasEntities() bool { return len(f.Entities)+len(f.code.entities) > 0 }
func (f *configFile) hasReplicas() bool { return len(f.Replicas) > 0 || f.code.replicas != nil }

// declared returns the code's entities.
func (f *configFile) declared() []outbox.Entity { return slices.Clone(f.code.entities) }

// replicasOfCode tells which CQRS IDs the code follows, by tables or handlers, if the
// file follows any, too.
func (f *configFile) replicasOfCode() (follows func(id string) bool) {
	if f.code.replicas == nil || len(f.Replicas) == 0 {
		return func(string) bool { return false }
	}
	c, err := f.code.declareAlone()
	return func(id string) bool { return err == nil && c.Resume(id) == nil } // which knows all that is registered
}

// declareAlone declares the code's replicas to a consumer that is never run. What is
// wrong with them is told where they are used.
func (s *service) declareAlone() (*consumer.Consumer, error) {
	c, err := idleConsumer(new(sql.DB), consumer.Config{TombstoneRetention: anyRetention})
	if err == nil && s.replicas != nil {
		_ = s.replicas(c)
	}
	return c, err
}

// withConfig adds the configuration file to the flags that must have a value,
// unless code declares what the file would.
func (s *settings) withConfig(required ...string) []string {
	if s.service != nil && (s.service.replicas != nil || len(s.service.entities) > 0) {
		return required
	}
	return append(required, flagConfig)
}

// queueOf is the replica's queue: the flag's, or the file's, or the code's.
func (f *configFile) queueOf(flag string) string { return cmp.Or(flag, f.Queue) }
