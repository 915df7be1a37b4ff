package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lockstep-go/lockstep/broker"
	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
	"github.com/lockstep-go/lockstep/outbox"
	"github.com/lockstep-go/lockstep/reconcile"
)

// tool is what the operator's tools have in common.
type tool struct {
	settings
	entity string
	filter string
	all    bool
	queue  string
	batch  int
	quiet  bool
}

// Flags of the operator's tools.
const (
	flagEntity = "cqrs-id"
	flagFilter = "filter"
	flagAll    = "all"
	flagQueue  = "queue"
	flagBatch  = "batch"
	flagForce  = "force"
	flagRate   = "rate"
	flagYes    = "yes"
)

func (t *tool) common(cmd *cobra.Command) {
	t.databaseFlag(cmd)
	t.configFlag(cmd)
	quietFlag(cmd, &t.quiet)
	cmd.Flags().IntVar(&t.batch, flagBatch, reconcile.DefaultBatch, "`rows` that are taken at once")
}

func (t *tool) entityFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&t.entity, flagEntity, "", "`name` of the entity")
}

func (t *tool) filterFlag(cmd *cobra.Command, without string) {
	cmd.Flags().StringVar(&t.filter, flagFilter, "", "django lookups as `JSON` that select rows, such as '{\"id__in\": [1, 2]}' (default: "+without+")")
}

// check reports what is wrong with the flags, all at once.
func (t *tool) check(cmd *cobra.Command, required ...string) error {
	faults := []error{t.fill(cmd, t.withConfig(required...)...)}
	if f := cmd.Flags().Lookup(flagBatch); f != nil {
		faults = append(faults, atLeast(flagBatch, t.batch, 1))
	}
	if f := cmd.Flags().Lookup(flagEntity); f != nil && t.entity == "" {
		faults = append(faults, misusef("--%s is missing: name the entity", flagEntity))
	}
	if t.queue != "" {
		if err := event.ValidateName("the name", t.queue); err != nil {
			faults = append(faults, misusef("--%s: %w", flagQueue, err))
		}
	}
	return errors.Join(faults...)
}

// orAll is the filter where none means every row.
func (t *tool) orAll() outbox.Filter {
	if t.filter == "" {
		return outbox.All
	}
	return outbox.Filter(t.filter)
}

// withMaster opens the master's side for fn.
func (t *tool) withMaster(ctx context.Context, fn func(m reconcile.Master) error) error {
	file, err := t.readConfig()
	if err != nil {
		return err
	}
	return inDatabase(t.databaseURL, "", withMaster(ctx, file, t.databaseURL, fn))
}

// inDatabase says of an error about a missing table which database lacks it, and which
// flag has that, if there are several.
func inDatabase(url, flag string, err error) error {
	if !errors.Is(err, dialect.ErrNoTable) && !dialect.IsMissingTable(err) {
		return err
	}
	u, unreadable := parseDatabaseURL(url)
	if unreadable != nil {
		return err
	}
	if flag != "" {
		u.name += " (--" + flag + ")"
	}
	return fmt.Errorf("database %s: %w", u.name, err)
}

func withMaster(ctx context.Context, file *configFile, url string, fn func(m reconcile.Master) error) error {
	if !file.hasEntities() {
		return misusef("%s: entities is missing: declare what this service is the master of", file.path)
	}
	db, err := openDatabase(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	ob, err := file.outbox(db.dialect)
	if err != nil {
		return &misuseError{err: err}
	}
	return asMisuse(fn(reconcile.Master{DB: db.DB, Outbox: ob}))
}

// withReplica opens the replica's side for fn.
func (t *tool) withReplica(ctx context.Context, fn func(to reconcile.Replica) error) error {
	file, err := t.readConfig()
	if err != nil {
		return err
	}
	return inDatabase(t.databaseURL, "", withReplica(ctx, file, t.databaseURL, t.queue, fn))
}

func withReplica(ctx context.Context, file *configFile, url, queue string, fn func(to reconcile.Replica) error) error {
	if !file.hasReplicas() {
		return misusef("%s: replicas is missing: declare at least one table that follows an entity", file.path)
	}
	db, err := openDatabase(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	queue = file.queueOf(queue)
	cfg, _ := file.consuming() // read and checked with the file
	cfg.Queue, cfg.Dialect, cfg.Entities, cfg.TombstoneRetention = queue, db.dialect, nil, anyRetention
	c, err := idleConsumer(db.DB, cfg)
	if err == nil {
		err = file.addReplicas(c)
	}
	if err != nil {
		return &misuseError{err: err}
	}
	return asMisuse(fn(reconcile.Replica{DB: db.DB, Consumer: c, Queue: queue}))
}

// checkQueue asks the broker whether the one queue is there that rows are to be sent
// to, unless they are to go anyway.
func (t *tool) checkQueue(ctx context.Context, p *progress, queue string, anyway bool) error {
	switch {
	case queue == "" || anyway:
		return nil
	case t.brokerURL == "":
		p.remark("queue %s is not looked for: no --%s is given", queue, flagBroker)
		return nil
	}
	b, err := t.openBroker(ctx, broker.Options{})
	if err != nil {
		return fmt.Errorf("%w\n--%s goes on without asking for the queue", err, flagYes)
	}
	defer func() { _ = b.Close() }()
	box, ok := b.(broker.Letterbox)
	if !ok {
		p.remark("queue %s is not looked for: this broker cannot be looked into", queue)
		return nil
	}
	_, _, err = box.Inspect(ctx, queue)
	if isNoQueue(err) {
		err = fmt.Errorf("%w: correct --%s; or start the replica that consumes the queue first; or give --%s to send in spite of it",
			err, flagQueue, flagYes)
	}
	return err
}

// asMisuse marks the errors that what was typed is to blame for.
func asMisuse(err error) error {
	if errors.Is(err, outbox.ErrFilter) || errors.Is(err, outbox.ErrKey) ||
		errors.Is(err, outbox.ErrUnknownEntity) || errors.Is(err, consumer.ErrUnknownEntity) {
		return &misuseError{err: err}
	}
	return err
}
