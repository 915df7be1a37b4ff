package cli

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-go/lockstep/broker"
	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// traceCommand is `relay trace`.
type traceCommand struct {
	settings
	replicaURL, queue string
	limit             time.Duration
}

func newTrace(svc *service) *cobra.Command {
	c := &traceCommand{settings: settings{service: svc}}
	cmd := &cobra.Command{
		Use:   "trace ENTITY KEY",
		Short: "Show where one row stands on its way from master to replica",
		Long: `Show where one row stands: its revision in the master, its events in the outbox
and what hinders them, its dead letters of relay and replica, its revision in the
replica, with times. Each side is looked at if it is configured. A key of several
columns is the JSON array of their texts. Messages that wait in the replica's queue
are left alone and not shown. The outbox has no index over keys, which would cost
each writer, and is read through: some two seconds for a million pending events.`,
		Example: `  relay trace account 42 --config lockstep.yaml --database-url postgres://localhost/shop --broker-url amqp://localhost/
  relay trace account 42 --config lockstep.yaml --replica-url postgres://localhost/billing --json
  relay trace shelf '["eu","7"]' --config lockstep.yaml --database-url postgres://localhost/shop`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return seeHelp(cmd, errors.New("which row? give its entity and its key"))
			}
			return c.run(cmd, args[0], args[1])
		},
	}
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return svc.completeEntity(cmd, args, typed)
	}
	c.databaseFlag(cmd)
	c.brokerFlag(cmd)
	c.configFlag(cmd)
	c.jsonFlag(cmd)
	cmd.Flags().StringVar(&c.replicaURL, flagReplica, "", "`URL` of the replica's database, if it is another")
	cmd.Flags().StringVar(&c.queue, flagQueue, "", "`name` of the replica's queue (default: the file's)")
	cmd.Flags().DurationVar(&c.limit, flagTimeout, 30*time.Second, "longest `time` for the questions to one database")
	return cmd
}

const flagTimeout = "timeout"

// What a row can be without a revision.
const (
	isNone    = "none"
	isUnknown = "unknown"
)

// traced is where a row stands. What is not configured is nil or empty.
type traced struct {
	Entity  string        `json:"cqrs_id"`
	Key     string        `json:"key"`
	Master  *tracedRow    `json:"master,omitempty"`
	Events  []tracedEvent `json:"events"`
	Replica *tracedRow    `json:"replica,omitempty"`
}

// tracedRow is a row or what its deletion left.
type tracedRow struct {
	// Is is row, deleted, none, or unknown: nothing was deleted, and which table to look
	// in is not known here.
	Is       string `json:"is"`
	Revision int64  `json:"revision"`
	Updated  string `json:"updated,omitempty"`
	Deleted  string `json:"deleted,omitempty"`
}

// inQueue is where a dead letter of the replica is.
const inQueue = "dead letter"

// tracedEvent is an event of the row, somewhere on its way.
type tracedEvent struct {
	// Where is pending (in the outbox), dead (in outbox_dead) or dead letter (in the
	// broker's queue).
	Where    string     `json:"where"`
	ID       string     `json:"id"`
	Signal   string     `json:"signal_type,omitempty"`
	Revision int64      `json:"revision"`
	Created  *time.Time `json:"created,omitempty"`
	Attempts int        `json:"attempts"` // of a dead letter: those after the first
	Error    string     `json:"error,omitempty"`
	RetryAt  *time.Time `json:"retry_at,omitempty"`
	Died     *time.Time `json:"died,omitempty"`
}

func (c *traceCommand) run(cmd *cobra.Command, entity, key string) error {
	if err := errors.Join(atLeast(flagTimeout, c.limit, time.Millisecond), checkOptionalURL(flagReplica, c.replicaURL)); err != nil {
		return err
	}
	file, err := c.traceConfig(cmd)
	if err != nil {
		return err
	}
	queue, err := file.queueFor(c.queue)
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	t := traced{Entity: entity, Key: key, Events: []tracedEvent{}}
	err = errors.Join(c.databases(ctx, &t, file, queue), c.letters(ctx, &t, queue))
	if c.asJSON {
		return errors.Join(printJSON(cmd, t), err)
	}
	if err == nil || t.Master != nil || t.Replica != nil || len(t.Events) > 0 { // else there is nothing under a heading
		t.print(cmd.OutOrStdout())
	}
	return err
}

func (c *traceCommand) traceConfig(cmd *cobra.Command) (*configFile, error) {
	if c.replicaURL == "" {
		return c.oneSide(cmd)
	}
	if err := c.fill(cmd); err != nil {
		return nil, err
	}
	return c.readConfig()
}

func (c *traceCommand) databases(ctx context.Context, t *traced, file *configFile, queue string) error {
	table, keys := file.masterTable(t.Entity)
	replica, err := file.replicaTable(t.Entity)
	if err != nil {
		return err
	}
	if table == "" && replica == nil && (file.path != "" || file.hasEntities()) {
		return misusef("%s: %q is neither an entity nor a replica", cmp.Or(file.path, "trace"), t.Entity)
	}
	var faults []error
	if c.databaseURL != "" && (table != "" || replica == nil || c.replicaURL != "") {
		faults = append(faults, c.within(ctx, c.databaseURL, func(ctx context.Context, db *database) error { return t.master(ctx, db, table, keys) }))
	}
	url := c.replicaURL
	if url == "" {
		url = c.databaseURL
	}
	if url != "" && replica != nil {
		err := c.within(ctx, url, func(ctx context.Context, db *database) error { return t.replica(ctx, db, *replica, queue) })
		if c.replicaURL == "" && dialect.IsMissingTable(err) {
			err = fmt.Errorf("%w: if the replica has a database of its own, name it by --%s", err, flagReplica)
		}
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// within opens a database for fn, and lets neither take longer than the limit.
func (c *traceCommand) within(ctx context.Context, url string, fn func(ctx context.Context, db *database) error) error {
	db, err := openDatabase(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	bounded, cancel := context.WithTimeout(ctx, c.limit)
	defer cancel()
	err = fn(bounded, db)
	switch {
	case err == nil:
		return nil
	case bounded.Err() != nil && ctx.Err() == nil:
		return fmt.Errorf("trace in %s: no answer within %v: the outbox is large or locked: give --%s more", db.name, c.limit, flagTimeout)
	}
	return fmt.Errorf("trace in %s: %w", db.name, err)
}

// masterTable returns an entity's table and key columns, or nothing.
func (f *configFile) masterTable(entity string) (table string, keys []string) {
	if e, declared := f.Entities[entity]; declared {
		table, keys = e.Table, e.Key
	}
	for _, e := range f.declared() {
		if e.ID == entity {
			if table, keys = e.Table, e.Keys; len(keys) == 0 && e.Key != "" {
				keys = []string{e.Key}
			}
		}
	}
	if len(keys) == 0 {
		keys = []string{event.FieldDeletedKey}
	}
	return table, keys
}

// replicaTable returns the table that follows an entity; nil if none is declared,
// and one without a name for a handler's.
func (f *configFile) replicaTable(entity string) (*consumer.Table, error) {
	if !f.hasReplicas() {
		return nil, nil //nolint:nilnil // none is declared
	}
	c, err := idleConsumer(new(sql.DB), consumer.Config{TombstoneRetention: anyRetention})
	if err == nil {
		err = f.addReplicas(c)
	}
	if err != nil {
		return nil, &misuseError{err: err}
	}
	if table, ok := c.Tables()[entity]; ok {
		return &table, nil
	}
	if f.code.replicas != nil {
		return &consumer.Table{}, nil // what a handler has seen is kept under the entity's name
	}
	return nil, nil //nolint:nilnil // none is declared
}

// keyParts returns the texts of a key's columns.
func keyParts(key string, columns []string) ([]any, error) {
	if len(columns) == 1 {
		return []any{key}, nil
	}
	var texts []string
	if err := json.Unmarshal([]byte(key), &texts); err != nil || len(texts) != len(columns) {
		return nil, misusef("the key has %d columns: give the JSON array of their texts, such as '[\"eu\",\"7\"]'", len(columns))
	}
	parts := make([]any, len(texts))
	for i, text := range texts {
		parts[i] = text
	}
	return parts, nil
}

// row reads a row or, if there is none, what its deletion left.
func (t *traced) row(ctx context.Context, db *database, table string, keys []string, tombstone func(r *tracedRow) error) (*tracedRow, error) {
	r := &tracedRow{Is: isNone}
	err := sql.ErrNoRows
	if table != "" {
		parts, fault := keyParts(t.Key, keys)
		if fault != nil {
			return nil, fault
		}
		err = db.dialect.Over(db.DB).QueryRowContext(ctx, db.dialect.TraceRow(table, keys), parts...).Scan(&r.Revision, &r.Updated)
	}
	if err == nil {
		r.Is = "row"
		return r, nil
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return nil, err
	}
	if err = tombstone(r); errors.Is(err, sql.ErrNoRows) {
		return r, nil
	}
	r.Is = "deleted"
	return r, err
}

func (t *traced) master(ctx context.Context, db *database, table string, keys []string) (err error) {
	q, text := db.dialect.Over(db.DB), db.dialect.Trace()
	t.Master, err = t.row(ctx, db, table, keys, func(r *tracedRow) error {
		return q.QueryRowContext(ctx, text.Deleted, t.Key, t.Entity).Scan(&r.Revision, &r.Deleted)
	})
	if err != nil {
		return err
	}
	if table == "" && t.Master.Is == isNone {
		t.Master.Is = isUnknown
	}
	return errors.Join(t.events(ctx, q, "pending", text.Pending), t.events(ctx, q, "dead", text.Dead))
}

// events reads the key's rows of the outbox or of outbox_dead.
func (t *traced) events(ctx context.Context, q dialect.Querier, where, query string) error {
	rows, err := q.QueryContext(ctx, query, t.Key)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		e := tracedEvent{Where: where}
		var topic string
		var payload []byte
		var created int64
		var other sql.NullInt64
		if err := rows.Scan(&e.ID, &topic, &payload, &created, &e.Attempts, &e.Error, &other); err != nil {
			return err
		}
		if event.EntityOf(topic) != t.Entity {
			continue
		}
		e.Created = moment(created)
		switch {
		case !other.Valid:
		case where == "dead":
			e.Died = moment(other.Int64)
		default:
			e.RetryAt = moment(other.Int64)
		}
		e.read(payload)
		t.Events = append(t.Events, e)
	}
	return rows.Err()
}

func moment(ms int64) *time.Time {
	at := time.UnixMilli(ms).UTC()
	return &at
}

// read takes from the body what there is to be seen.
func (e *tracedEvent) read(body []byte) {
	if ev, err := event.Decode(body); err == nil {
		e.Signal = string(ev.Signal)
		if v, err := ev.Version(); err == nil {
			e.Revision = v.Revision
		}
	}
}

func (t *traced) replica(ctx context.Context, db *database, table consumer.Table, queue string) (err error) {
	q, text := db.dialect.Over(db.DB), db.dialect.Trace()
	t.Replica, err = t.row(ctx, db, table.Name, table.Keys, func(r *tracedRow) error {
		query, args := text.Buried, []any{t.Key, table.Name}
		if table.Name == "" {
			query, args = text.Seen, []any{t.Key, t.Entity, queue}
		}
		var deleted sql.NullString
		err := q.QueryRowContext(ctx, query, args...).Scan(&r.Revision, &r.Updated, &deleted)
		r.Deleted = deleted.String
		return err
	})
	if err == nil && table.Name == "" && t.Replica.Is == "deleted" && t.Replica.Deleted == "" {
		t.Replica.Is = "row" // a handler has seen it
	}
	return err
}

// letters looks through the replica's dead letters.
func (c *traceCommand) letters(ctx context.Context, t *traced, queue string) error {
	if c.brokerURL == "" {
		return nil
	}
	if queue == "" {
		return misusef("--%s is missing: name the replica's queue, there or in the file, or leave --%s out", flagQueue, flagBroker)
	}
	b, box, err := c.openLetterbox(ctx, broker.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }()
	err = queueLetters{broker: b, box: box, queue: queue}.each(ctx, func(d letter) error {
		if d.entity != t.Entity || d.key != t.Key {
			return nil
		}
		e := tracedEvent{Where: inQueue, ID: d.id, Error: d.reason}
		if e.read(d.body); !d.since.IsZero() {
			e.Died = &d.since
		}
		if ev, err := event.Decode(d.body); err == nil {
			e.Attempts = ev.Retries
		}
		t.Events = append(t.Events, e)
		return nil
	})
	if isNoQueue(err) {
		return nil // then there are no letters
	}
	return err
}
