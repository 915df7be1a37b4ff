package relay

import (
	"cmp"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/lockstep-go/lockstep/internal/dialect"
)

// Dialect says which database the outbox is in.
type Dialect = dialect.Name

// The databases an outbox can be in.
const (
	Postgres = dialect.Postgres
	MySQL    = dialect.MySQL
	SQLite   = dialect.SQLite
)

// Unroutable says what becomes of a message that the broker took but had no
// queue for.
type Unroutable string

// What to do with an unroutable message.
const (
	// Retry refuses the message: it is tried again and its key waits.
	Retry Unroutable = "retry"
	// Drop counts the message and deletes it, as if it had been delivered.
	Drop Unroutable = "drop"
	// Dead moves the message to outbox_dead.
	Dead Unroutable = "dead"
)

// Config says how a Relay works. The zero value is good for most.
type Config struct {
	// Dialect names the outbox's database. Default: told from the driver.
	Dialect Dialect
	// Logger gets outages, refusals and changes of ownership. Default: none.
	Logger *slog.Logger
	// BatchSize is how many rows are read at once. Default 500.
	BatchSize int
	// BatchBytes is how many bytes of payload are read at once; a larger single
	// row is read alone. At most five batches are in memory, of up to twice the size
	// with Collapse. Default 4 MiB.
	BatchBytes int64
	// Poll is how long an idle relay waits before it looks again, at most.
	// Default 200 ms.
	Poll time.Duration
	// Wake, when it receives, ends an idle wait early. It is a hint; see
	// [Listen]. While it is nil, writers are never asked to notify.
	Wake <-chan struct{}
	// LeaseTTL is how long a relay that died keeps others from working. At least
	// a second. Default 10 s.
	LeaseTTL time.Duration
	// LeaseRenew is how often the lease is renewed; at most half of LeaseTTL.
	// Default: three tenths of LeaseTTL.
	LeaseRenew time.Duration
	// MaxAttempts is how often a message is refused before it moves to
	// outbox_dead. Default 25, which takes about a quarter of an hour.
	MaxAttempts int
	// UnroutableBroadcast is for messages to all replicas. Default Drop: an
	// entity need not have a replica.
	UnroutableBroadcast Unroutable
	// UnroutableDirect is for messages to one queue. Default Retry.
	UnroutableDirect Unroutable
	// Lanes is how many goroutines publish side by side through a publisher that
	// is not a [PipelinedPublisher]. Each key stays in one lane. Default 8.
	Lanes int
	// DrainTimeout is how long Run waits for what is under way when it is asked
	// to stop. Default 30 s.
	DrainTimeout time.Duration
	// Shards splits the outbox by key, so that this many relays can work side by
	// side; each takes its fair part. The number is kept in the database and holds
	// for all relays of the outbox: the one that was started last with a number
	// decides, and those with 0 follow. When it changes, every relay settles what
	// it has under way before the first goes on. Default 0.
	Shards int
	// Collapse sends, when the relay is behind, only the newest pending event of a
	// key, with the older ones' previous values, so that the broker and the replicas
	// have work in proportion to keys, not to events. The older rows are deleted with
	// the newest. Replicas end with the same rows; they count the revisions left
	// out as gaps, and handlers do not see each state. Only SAVEs and DELETEs
	// that package outbox has written are left out. Default false.
	Collapse bool
	// TracerProvider makes a span for each message whose writer was in one: from when
	// the event was written until the broker confirmed it, a child of the writer's.
	// The message names the relay's span then. Default nil: no spans; the message
	// names the writer's.
	TracerProvider trace.TracerProvider
	// Look is how often the relay counts what is in the outbox, for
	// [Stats.Outbox] and [Stats.Stalled]; less often when counting takes long. It
	// uses one more connection. Zero: never.
	Look time.Duration
}

func (cfg *Config) setDefaults() {
	cfg.BatchSize = cmp.Or(cfg.BatchSize, 500)
	cfg.BatchBytes = cmp.Or(cfg.BatchBytes, 4<<20)
	cfg.Poll = cmp.Or(cfg.Poll, 200*time.Millisecond)
	cfg.LeaseTTL = cmp.Or(cfg.LeaseTTL, 10*time.Second)
	cfg.LeaseRenew = cmp.Or(cfg.LeaseRenew, cfg.LeaseTTL*3/10)
	cfg.MaxAttempts = cmp.Or(cfg.MaxAttempts, 25)
	cfg.UnroutableBroadcast = cmp.Or(cfg.UnroutableBroadcast, Drop)
	cfg.UnroutableDirect = cmp.Or(cfg.UnroutableDirect, Retry)
	cfg.Lanes = cmp.Or(cfg.Lanes, 8)
	cfg.DrainTimeout = cmp.Or(cfg.DrainTimeout, 30*time.Second)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
}

func (cfg *Config) validate(fault func(format string, args ...any)) {
	for _, field := range []struct {
		name  string
		value int64
	}{
		{"BatchSize", int64(cfg.BatchSize)},
		{"BatchBytes", cfg.BatchBytes},
		{"Poll", int64(cfg.Poll)},
		{"LeaseRenew", int64(cfg.LeaseRenew)},
		{"MaxAttempts", int64(cfg.MaxAttempts)},
		{"Lanes", int64(cfg.Lanes)},
		{"DrainTimeout", int64(cfg.DrainTimeout)},
		{"Look", int64(cfg.Look)},
		{"Shards", int64(cfg.Shards)},
	} {
		if field.value < 0 {
			fault("Config.%s is negative: use 0 for its default, or more", field.name)
		}
	}
	if cfg.LeaseTTL < time.Second {
		fault("Config.LeaseTTL is %v: use a second or more", cfg.LeaseTTL)
	}
	if cfg.LeaseRenew > cfg.LeaseTTL/2 {
		fault("Config.LeaseRenew is %v: use at most half of LeaseTTL, %v", cfg.LeaseRenew, cfg.LeaseTTL/2)
	}
	for _, field := range []struct {
		name  string
		value Unroutable
	}{
		{"UnroutableBroadcast", cfg.UnroutableBroadcast},
		{"UnroutableDirect", cfg.UnroutableDirect},
	} {
		switch field.value {
		case Retry, Drop, Dead:
		default:
			fault("Config.%s is %q: use %s, %s or %s", field.name, field.value, Retry, Drop, Dead)
		}
	}
}
