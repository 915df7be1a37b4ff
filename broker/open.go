package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"

	"github.com/lockstep-go/lockstep/broker/jetstream"
	"github.com/lockstep-go/lockstep/broker/memory"
	"github.com/lockstep-go/lockstep/broker/rabbitmq"
	"github.com/lockstep-go/lockstep/broker/sql"
)

// Options are what all adapters have in common. The zero value works.
type Options struct {
	// Logger is told of lost and regained connections. Default: nobody.
	Logger *slog.Logger
	// Prefetch is the number of unacknowledged messages that a subscription
	// holds. Default 1001. A parameter of that name in the URL goes before it.
	Prefetch int
}

// Forms are the URLs that Open knows, one a line, for messages and help texts.
//
//nolint:gosec // the password is an example's
const Forms = `amqp://user:password@host:5672/vhost, amqps://… (RabbitMQ; several hosts, separated by commas)
nats://user:password@host:4222, tls://… (NATS JetStream; several hosts, separated by commas)
jetstream+embedded:///folder (NATS JetStream inside this process)
postgres://user:password@host:5432/database, postgresql://… (PostgreSQL itself; slower)
memory:// (inside this process, gone with it; for tests)`

// ErrURL reports a broker URL that Open cannot read. The error's text lists the
// forms that it can, and never holds a password.
var ErrURL = errors.New("broker: url")

// Open connects to the broker that the URL names; the adapters' Open functions
// say which parameters its query may have. It blocks until the connection
// stands, until ctx ends or until the adapter's timeout. Every Open of
// memory:// makes a new, empty broker.
func Open(ctx context.Context, rawURL string, opts Options) (Broker, error) {
	scheme, rest, ok := strings.Cut(rawURL, ":")
	switch {
	case rawURL == "":
		return nil, fmt.Errorf("%w is empty; known are\n%s", ErrURL, Forms)
	case !ok:
		return nil, fmt.Errorf("%w has no scheme; known are\n%s", ErrURL, Forms)
	}
	switch scheme {
	case "amqp", "amqps":
		return opened(rabbitmq.Open(ctx, rawURL, rabbitmq.Config{Logger: opts.Logger, Prefetch: opts.Prefetch}))
	case "nats", "tls", "jetstream+embedded":
		return opened(jetstream.Open(ctx, rawURL, jetstream.Config{Logger: opts.Logger, Prefetch: opts.Prefetch}))
	case "postgres", "postgresql":
		return opened(sql.Open(ctx, rawURL, sql.Config{Logger: opts.Logger, Prefetch: opts.Prefetch}))
	case "memory":
		if strings.Trim(rest, "/") != "" {
			return nil, fmt.Errorf("%w: memory:// takes neither host nor path nor parameters", ErrURL)
		}
		return opened(memory.Open(ctx, memory.Config{Prefetch: opts.Prefetch}))
	}
	return nil, fmt.Errorf("%w%s is of no known kind; known are\n%s", ErrURL, quoted(rawURL), Forms)
}

// opened turns the nil pointer beside an error into a nil Broker, and what an
// adapter calls a fault of the URL into ErrURL.
func opened[B Broker](b B, err error) (Broker, error) {
	switch {
	case errors.Is(err, rabbitmq.ErrURL), errors.Is(err, jetstream.ErrURL), errors.Is(err, sql.ErrURL):
		return nil, fmt.Errorf("%w: %w", ErrURL, err)
	case err != nil:
		return nil, err
	}
	return b, nil
}

// quoted returns the URL without its password behind a space, or nothing if it
// cannot be told where the password is.
func quoted(rawURL string) string {
	u, err := url.Parse(rawURL)
	_, rest, _ := strings.Cut(rawURL, "://")
	end := strings.IndexAny(rest, "/?#")
	if err != nil || u.Host == "" || strings.Contains(rawURL, ",") || end >= 0 && strings.Contains(rest[end:], "@") {
		return ""
	}
	u.RawQuery, u.Fragment = "", ""
	return fmt.Sprintf(" %q", u.Redacted())
}
