package jetstream

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
)

// Config says how a Broker behaves. The zero value is what most services need.
// A parameter in the URL's query (given in brackets) goes before the field.
type Config struct {
	// Stream is the stream that stands for the exchange, by default "cqrs".
	// Letters, digits, "-" and "_". [stream]
	Stream string
	// Replicas is the number of servers that hold the stream, if [Open] has to
	// create it. Default 1. [replicas]
	Replicas int
	// Prefetch is the number of unacknowledged messages that one subscription
	// holds. Default 1001, as django-cqrs has it. [prefetch]
	Prefetch int
	// Window is the number of messages that may be on their way to the server
	// without a confirmation; PublishAsync blocks when there are more.
	// Default 4096. Beside it the bodies are limited to 32 MiB. [window]
	Window int
	// ConfirmTimeout bounds the wait for confirmations and every other call to
	// the server. Default 10 s. [confirm_timeout]
	ConfirmTimeout time.Duration
	// AckWait is the time after which the server delivers the unacknowledged
	// messages of a vanished process again. A living one renews what it holds
	// three times in that span. It is set when a queue is created; a queue that
	// exists keeps its own. Default 10 s, at least 1 s. [ack_wait]
	AckWait time.Duration
	// Logger is told of lost and regained connections and of what the embedded
	// server has to say. Default: nobody.
	Logger *slog.Logger
	// Options are passed on to nats.Connect: TLS, credentials. Those that
	// concern reconnecting and handlers are overruled.
	Options []nats.Option
}

// The defaults of Config.
const (
	defaultStream         = "cqrs"
	defaultReplicas       = 1
	defaultPrefetch       = 1001
	defaultWindow         = 4096
	defaultConfirmTimeout = 10 * time.Second
	defaultAckWait        = 10 * time.Second
)

// maxBytesOnTheWay keeps below the 128 MiB that a stream queues before it
// turns messages away, which would let later ones overtake them.
const maxBytesOnTheWay = 32 << 20

func (c Config) withDefaults() Config {
	c.Stream = cmp.Or(c.Stream, defaultStream)
	c.Replicas = cmp.Or(c.Replicas, defaultReplicas)
	c.Prefetch = cmp.Or(c.Prefetch, defaultPrefetch)
	c.Window = cmp.Or(c.Window, defaultWindow)
	c.ConfirmTimeout = cmp.Or(c.ConfirmTimeout, defaultConfirmTimeout)
	c.AckWait = cmp.Or(c.AckWait, defaultAckWait)
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	return c
}

// validate reports every fault of a Config that has its defaults.
func (c Config) validate() error {
	var errs []error
	fault := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("jetstream: config: "+format, args...))
	}
	if len(c.Stream) > 100 || durable(c.Stream) != c.Stream {
		fault("Stream %.120q: only letters, digits, - and _, at most 100", c.Stream)
	}
	if c.Replicas < 1 || c.Replicas > 5 {
		fault("Replicas is %d, not 1 to 5", c.Replicas)
	}
	if c.Prefetch < 1 {
		fault("Prefetch is %d, not positive", c.Prefetch)
	}
	if c.Window < 1 {
		fault("Window is %d, not positive", c.Window)
	}
	if c.ConfirmTimeout < 0 {
		fault("ConfirmTimeout is %v, not positive", c.ConfirmTimeout)
	}
	if c.AckWait < time.Second {
		fault("AckWait is %v, below 1 s", c.AckWait)
	}
	return errors.Join(errs...)
}
