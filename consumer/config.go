package consumer

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// Dialect says which database's SQL to speak.
type Dialect = dialect.Name

// The databases a replica can live in.
const (
	Postgres = dialect.Postgres
	MySQL    = dialect.MySQL
	SQLite   = dialect.SQLite
)

// Config says how a [Consumer] works. Only Queue is required.
type Config struct {
	// Queue is the name of the replica service's queue, the same in all its
	// processes. All that share one declare the same entities: another set needs a
	// queue of its own.
	Queue string
	// Dialect is the database's. The zero value asks the driver.
	Dialect Dialect
	// Logger gets what nobody else can be told: pauses, dead letters, lowered
	// revisions. Nil discards it.
	Logger *slog.Logger
	// BatchSize is how many messages one transaction takes at most, when that
	// many have arrived; it never waits for more. A broker that hands out n messages
	// unacknowledged makes batches of about half of that. Zero means 1000.
	BatchSize int
	// MaxParked is how many messages at most wait, unacknowledged, for rows that
	// theirs refer to by a foreign key. They are applied right after such a row where
	// this consumer applies it, and within a second where somebody else does: the
	// database is asked for the rows twice a second while messages wait. A delay that
	// is over before that costs an attempt. MaxParked should not be more than half of what
	// the broker hands out unacknowledged. What finds no room is tried again after
	// its delay, as any message that fails. Zero means 500.
	MaxParked int
	// DeadLetterTTL is how long the broker keeps a dead letter, in whole
	// milliseconds. Zero means 10 days.
	DeadLetterTTL time.Duration
	// TombstoneRetention is how long deleted keys are remembered, so that a late
	// message does not bring one back. It has to be longer than DeadLetterTTL and
	// the retries of any entity together, which Table and Handle check; where
	// functions decide on retries, or there is no end of them, see to it yourself.
	// Older tombstones are removed now and then. Zero means 30 days.
	TombstoneRetention time.Duration
	// DrainTimeout is how long Run may go on with the messages in hand after its
	// context has ended. Zero means 30 s.
	DrainTimeout time.Duration
	// TransactionTimeout bounds one attempt at a batch's transaction. An attempt
	// that takes longer counts as an outage of the database: it is repeated with
	// half of the messages at a time, and no message pays for it. Zero means 1 min.
	TransactionTimeout time.Duration
	// StatementTimeout bounds each statement that writes to a replica table and
	// each of a handler's. One that takes longer is logged; a handler's counts as
	// its error, a table's as an outage of the database, after which half of the
	// messages are tried at a time. Zero means none but the transaction's.
	StatementTimeout time.Duration
	// Workers is how many handlers run at a time, each with another key. Zero
	// means 8. SQLite has one writer at a time, so there handlers with a
	// transaction run one by one.
	Workers int
	// HandlerTimeout is how long one call of a handler may take, where its
	// [HandlerOptions] say nothing else. Zero means 30 s.
	HandlerTimeout time.Duration
	// Entities limits this process to some of what is registered, by CQRS ID: no
	// other topic is bound to the queue. As messages of one queue go to any of its
	// consumers, processes with different entities need queues of their own. Empty
	// means all that is registered.
	Entities []string
	// Ignore lists CQRS IDs whose messages are acknowledged and counted as ignored,
	// such as those of an entity that this service has ceased to follow and whose
	// binding is still there. Messages of other entities that are not consumed
	// here become dead letters.
	Ignore []string
	// Observe, when set, is called for each message after the commit that settled
	// it, with its entity and the time since the change in the master. It is no
	// better than the two clocks. It must return quickly: the consumer waits. With
	// handlers it is called from several goroutines.
	Observe func(cqrsID string, lag time.Duration)
	// TracerProvider makes a span for each message that names one: from when it was
	// taken from the broker until it was acknowledged, a child of the relay's or the
	// writer's. Handlers are called in it. Default nil: no spans.
	TracerProvider trace.TracerProvider
	// Now is the clock for expiry and for lag. Nil means time.Now.
	Now func() time.Time
}

// Defaults, as the fields' documentation has them.
const (
	defaultBatchSize          = 1000
	defaultMaxParked          = 500
	defaultDeadLetterTTL      = 10 * 24 * time.Hour
	defaultTombstoneRetention = 30 * 24 * time.Hour
	defaultDrainTimeout       = 30 * time.Second
	defaultTransactionTimeout = time.Minute
	defaultMaxRetries         = 30
	defaultRetryDelay         = 2 * time.Second
	defaultKey                = "id"
	defaultWorkers            = 8
	defaultHandlerTimeout     = 30 * time.Second
)

func (cfg *Config) validate() error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("consumer: Config."+format, args...))
	}
	if err := event.ValidateName("name", cfg.Queue); err != nil {
		fault("Queue: %w", err)
	}
	if cfg.Dialect != "" && !cfg.Dialect.Valid() {
		fault("Dialect is %q, not one of %s", cfg.Dialect, dialect.Known)
	}
	if cfg.BatchSize < 0 {
		fault("BatchSize is %d; zero means %d", cfg.BatchSize, defaultBatchSize)
	}
	if cfg.Workers < 0 {
		fault("Workers is %d; zero means %d", cfg.Workers, defaultWorkers)
	}
	if cfg.MaxParked < 0 {
		fault("MaxParked is %d; zero means %d", cfg.MaxParked, defaultMaxParked)
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"DeadLetterTTL", cfg.DeadLetterTTL},
		{"TombstoneRetention", cfg.TombstoneRetention},
		{"DrainTimeout", cfg.DrainTimeout},
		{"TransactionTimeout", cfg.TransactionTimeout},
		{"StatementTimeout", cfg.StatementTimeout},
		{"HandlerTimeout", cfg.HandlerTimeout},
	} {
		if d.value < 0 || d.value > 0 && d.value < time.Millisecond {
			fault("%s is %s; zero means the default, and the least is 1ms", d.name, d.value)
		}
	}
	return errors.Join(faults...)
}

func (cfg *Config) setDefaults() {
	cfg.BatchSize = cmp.Or(cfg.BatchSize, defaultBatchSize)
	cfg.MaxParked = cmp.Or(cfg.MaxParked, defaultMaxParked)
	cfg.DeadLetterTTL = cmp.Or(cfg.DeadLetterTTL, defaultDeadLetterTTL)
	cfg.TombstoneRetention = cmp.Or(cfg.TombstoneRetention, defaultTombstoneRetention)
	cfg.DrainTimeout = cmp.Or(cfg.DrainTimeout, defaultDrainTimeout)
	cfg.TransactionTimeout = cmp.Or(cfg.TransactionTimeout, defaultTransactionTimeout)
	cfg.Workers = cmp.Or(cfg.Workers, defaultWorkers)
	cfg.HandlerTimeout = cmp.Or(cfg.HandlerTimeout, defaultHandlerTimeout)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
}

// Table is a replica table: rows that follow an entity's events without code.
//
// Besides the mapped columns it needs cqrs_revision and cqrs_updated, which
// order the events of a row; [Consumer.Check] prints the lines that add them. When
// the table is altered in a way that lets messages fit which did not, their next
// attempts pass: its columns are read again when messages fail, every 10 s at most.
//
// It may have triggers. What one refuses fails as what a constraint refuses does;
// a row that one changes or leaves out counts as applied. On SQLite, one that rolls
// back the transaction (RAISE(ROLLBACK), and ON CONFLICT ROLLBACK of a constraint)
// costs the others of the batch a transaction each.
//
// A unique value that one row gives up and another takes within a batch changes hands
// there, whichever message came first. One that another row still has costs its message
// an attempt. Two rows that exchange theirs at once, without a third value in between,
// never fit one after the other: on PostgreSQL make the constraint DEFERRABLE INITIALLY
// DEFERRED, elsewhere do without it, for the master has seen to it.
//
// Rows that the database deletes by itself (ON DELETE CASCADE) leave no tombstones, so a
// late message can bring one back; and a DELETE that comes late takes along rows that
// refer to the one made anew. Leave the action out. Texts of a key that the database takes
// for one (citext, a collation without case or, as MySQL's, without spaces at the end) are
// one row, but have a tombstone each: compare keys byte by byte, or spell them one way.
// [Consumer.Warnings] tells of both where the catalogue shows them.
//
// A message whose row refers to one that is not there, by a foreign key of any number
// of columns, is parked until that has come; see [Config.MaxParked]. It does not
// matter who brings it: this consumer, another process, or a service of its own.
type Table struct {
	// Name is the table's name, with or without a schema. Tombstones are filed under
	// it as it is written here, so keep its spelling. A view will not do.
	Name string
	// Key is the column that holds the entity's key. It must be unique and not
	// null. Empty means "id", or the first of Keys.
	Key string
	// Keys are the columns of a composite key, in the order of the master's. They
	// must be the table's primary key. Empty means that the key is Key alone.
	Keys []string
	// Columns maps wire fields to the table's columns, one of them to Key. Fields
	// that are not mapped are ignored. Empty means that each column takes the
	// field of its own name.
	//
	// A message has to bring a field for each mapped column that may not be null,
	// whether or not the column has a default. A mapped column that may be null
	// and whose field is missing keeps its value, or gets its default in a new row.
	Columns map[string]string
	// MaxRetries is how often a message that does not fit is tried again before
	// it becomes a dead letter. Zero means 30; see NoRetries and RetryForever.
	MaxRetries int
	// RetryDelay is the pause before a message is tried again. Zero means 2 s.
	RetryDelay time.Duration
	// RetryIf, when set, decides instead of MaxRetries whether a message is tried
	// again. Attempts are counted from 1: it is the number of the one that failed.
	// It is called from several goroutines.
	RetryIf func(attempt int, err error) bool
	// RetryDelayFor, when set, gives the pause instead of RetryDelay.
	RetryDelayFor func(attempt int, err error) time.Duration
	// OnlyDirectSyncs leaves out SYNCs that are meant for all replicas: only those
	// sent to this queue are applied. The others are acknowledged and counted as
	// ignored.
	OnlyDirectSyncs bool
}

func (t *Table) policy() policy {
	return policy{t.MaxRetries, t.RetryDelay, t.RetryIf, t.RetryDelayFor, t.OnlyDirectSyncs}
}

func (t *Table) setDefaults() {
	if t.Keys = slices.Clone(t.Keys); len(t.Keys) == 0 {
		t.Key = cmp.Or(t.Key, defaultKey)
		t.Keys = []string{t.Key}
	}
	t.Key = cmp.Or(t.Key, t.Keys[0])
	t.Columns = maps.Clone(t.Columns)
}

// validate checks what can be checked without the catalogue.
func (t *Table) validate(cqrsID string) error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("consumer: Table %q: "+format, append([]any{cqrsID}, args...)...))
	}
	if err := event.ValidateName("CQRS ID", cqrsID); err != nil {
		fault("%w", err)
	}
	if t.Name == "" {
		fault("Name is empty")
	}
	p := t.policy()
	p.validate(fault)
	owner := make(map[string]string, len(t.Columns))
	for _, field := range slices.Sorted(maps.Keys(t.Columns)) {
		column := t.Columns[field]
		switch first, taken := owner[column]; {
		case field == "" || column == "":
			fault("Columns maps %q to %q: neither may be empty", field, column)
		case taken:
			fault("Columns maps both %q and %q to column %s", first, field, column)
		case isVersion(field) != isVersion(column) || isVersion(field) && field != column:
			fault("Columns maps %q to %q: %s and %s go to the columns of their names", field, column, event.FieldRevision, event.FieldUpdated)
		}
		owner[column] = field
	}
	if t.Key != t.Keys[0] {
		fault("Key and Keys are both set: leave one out")
	}
	for i, key := range t.Keys {
		if _, mapped := owner[key]; len(t.Columns) > 0 && !mapped {
			fault("the columns map no field to the key column %s: name the field that brings it", key)
		}
		if isVersion(key) {
			fault("Key is %s, which orders the events", key)
		}
		if key == "" || slices.Contains(t.Keys[:i], key) {
			fault("Keys has %q empty or twice", key)
		}
	}
	return errors.Join(faults...)
}

func isVersion(name string) bool { return name == event.FieldRevision || name == event.FieldUpdated }
