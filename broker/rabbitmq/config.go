package rabbitmq

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Defaults of [Config].
const (
	// DefaultExchange is django-cqrs's exchange.
	DefaultExchange = "cqrs"
	// DefaultPrefetch is django-cqrs's: its delay queue of 1000, and one.
	DefaultPrefetch = 1001
	// DefaultWindow keeps RabbitMQ busy; a larger one does not make it faster.
	DefaultWindow = 2048
	// DefaultTimeout is the default of ConfirmTimeout, DialTimeout and Heartbeat.
	DefaultTimeout = 10 * time.Second
	// DefaultName is shown in RabbitMQ's list of connections.
	DefaultName = "lockstep"
)

const (
	queueClassic = "classic"
	queueQuorum  = "quorum"
)

const (
	maxExchange = 200   // leaves room for the names of delay queues in AMQP's 255 bytes
	maxPrefetch = 65535 // AMQP's prefetch count has 16 bits

	maxHeartbeat = 65535 * time.Second // AMQP's has 16 bits, too
)

// Config tunes a [Broker]. The zero value works. A parameter in the URL's query (given in brackets)
// takes precedence over the field.
type Config struct {
	// Exchange is the topic exchange everything is published to, at most 200 bytes. Queues
	// are the virtual host's: on another exchange one of the same name is the same queue.
	// Default: [DefaultExchange]. [exchange]
	Exchange string
	// Prefetch is how many messages a subscription holds that are neither acked nor nacked, 1 to 65535.
	// With 1, the next message comes only after the last one was acked. Default: [DefaultPrefetch]. [prefetch]
	Prefetch int
	// Window is how many published messages may be unconfirmed at a time. Default: [DefaultWindow]. [window]
	Window int
	// ConfirmTimeout is how long the broker may be silent: it bounds publishing, waiting for
	// confirms, declaring and each write to the socket. Default: [DefaultTimeout].
	// [confirm_timeout, as in 10s]
	ConfirmTimeout time.Duration
	// DialTimeout bounds one attempt to connect, with TLS and AMQP handshakes.
	// Default: [DefaultTimeout]. [connection_timeout, in milliseconds]
	DialTimeout time.Duration
	// Heartbeat is how often the two sides show each other that they are there, when nothing else
	// passes: the smaller one of this and the server's own counts. A connection on which nothing has
	// come for about two heartbeats is given up. 1 s to 65535 s, in whole seconds.
	// Default: [DefaultTimeout]. [heartbeat, in seconds]
	Heartbeat time.Duration
	// TLS is used for amqps URLs. Default: the system's certificate authorities and no certificate of
	// the client, or what the URL says: files in PEM form that are read anew for each connection, and
	// the name to be found in the server's certificate in place of the host's.
	// [cacertfile, certfile and keyfile, server_name_indication]
	TLS *tls.Config
	// QueueType is what kind of queues are declared: "classic" or "quorum". All who declare a queue
	// must agree, and django-cqrs declares classic ones. Default: classic. [queue_type]
	QueueType string
	// Name is shown in RabbitMQ's list of connections. Default: [DefaultName]. [name]
	Name string
	// Logger is told of lost, blocked and restored connections. Default: discard.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	c.Exchange = cmp.Or(c.Exchange, DefaultExchange)
	c.Prefetch = cmp.Or(c.Prefetch, DefaultPrefetch)
	c.Window = cmp.Or(c.Window, DefaultWindow)
	c.ConfirmTimeout = cmp.Or(c.ConfirmTimeout, DefaultTimeout)
	c.DialTimeout = cmp.Or(c.DialTimeout, DefaultTimeout)
	c.Heartbeat = cmp.Or(c.Heartbeat, DefaultTimeout)
	c.Name = cmp.Or(c.Name, DefaultName)
	c.QueueType = cmp.Or(c.QueueType, queueClassic)
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	return c
}

func (c Config) validate() error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("rabbitmq: config: "+format, args...))
	}
	if len(c.Exchange) > maxExchange {
		fault("Exchange has %d bytes, at most %d are possible", len(c.Exchange), maxExchange)
	}
	if c.Prefetch < 1 || c.Prefetch > maxPrefetch {
		fault("Prefetch is %d, not 1 to %d", c.Prefetch, maxPrefetch)
	}
	if c.Window < 1 {
		fault("Window is %d, not positive", c.Window)
	}
	if c.QueueType != queueClassic && c.QueueType != queueQuorum {
		fault("QueueType is %q, not %s or %s", c.QueueType, queueClassic, queueQuorum)
	}
	if c.ConfirmTimeout < 0 {
		fault("ConfirmTimeout is %v, not positive", c.ConfirmTimeout)
	}
	if c.DialTimeout < 0 {
		fault("DialTimeout is %v, not positive", c.DialTimeout)
	}
	if c.Heartbeat < time.Second || c.Heartbeat > maxHeartbeat || c.Heartbeat%time.Second != 0 {
		fault("Heartbeat is %v, not 1s to %v without fractions of 1s", c.Heartbeat, maxHeartbeat)
	}
	return errors.Join(faults...)
}

// serverParameters are the query parameters that amqp091 reads itself.
var serverParameters = []string{
	paramCA, paramCert, paramKey, paramServerName, "auth_mechanism", "channel_max",
}

// ownParameters are those that the Config's fields name.
var ownParameters = []string{
	"confirm_timeout", "connection_timeout", "exchange", "heartbeat", "name", "prefetch", "queue_type", "window",
}

// ErrURL reports a URL, or parameters in it, that Open cannot read, and faults of the Config. It is found
// with [errors.Is]; its text says no more than that.
var ErrURL = errors.New("the URL or the configuration is wrong")

// parseURLs is parseURL for a URL that names several hosts of a cluster, separated by commas. They share
// the rest of the URL.
func parseURLs(raw string, cfg Config) (dials []string, address string, _ Config, _ error) {
	scheme, rest, whole := strings.Cut(raw, "://")
	if !whole { // what follows might take a password for a host or a path
		return nil, "", cfg, errors.New("rabbitmq: url: cannot be read; want amqp://user:password@host:5672/vhost")
	}
	authority, tail := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, tail = rest[:i], rest[i:]
	}
	at := strings.LastIndexByte(authority, '@') + 1
	var addresses []string
	read := cfg
	for host := range strings.SplitSeq(authority[at:], ",") {
		dial, one, with, err := parseURL(scheme+"://"+authority[:at]+host+tail, cfg)
		if err != nil {
			return nil, one, cfg, err
		}
		dials, addresses, read = append(dials, dial), append(addresses, one), with
	}
	return dials, strings.Join(addresses, ","), read, nil
}

// parseURL splits raw into what amqp091 dials, the address for people, without password and query,
// and the configuration with the URL's parameters in it.
func parseURL(raw string, cfg Config) (dial, address string, _ Config, _ error) {
	u, err := url.Parse(raw)
	_, rest, _ := strings.Cut(raw, "://")
	i := strings.IndexAny(rest, "/?#")
	if cut := i >= 0 && strings.Contains(rest[i:], "@"); err != nil || cut {
		// url.Parse quotes what it could not read, and takes what stands before a bare
		// / ? or # for the host: either may be a part of the password.
		return "", "", cfg, errors.New("rabbitmq: url: cannot be read; " +
			"reserved characters in the user name and the password must be percent-encoded")
	}
	address = (&url.URL{Scheme: u.Scheme, User: u.User, Host: u.Host, Path: u.Path}).Redacted()
	if u.Scheme != "amqp" && u.Scheme != "amqps" {
		return "", address, cfg, fmt.Errorf("rabbitmq: url: the scheme is %q, not amqp or amqps", u.Scheme)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return "", address, cfg, errors.New("rabbitmq: url: the query is malformed")
	}
	if err := errors.Join(cfg.read(query), cfg.checkTLS(u, query)); err != nil {
		return "", address, cfg, err
	}
	u.RawQuery = query.Encode()
	if _, err := amqp.ParseURI(u.String()); err != nil {
		return "", address, cfg, fmt.Errorf("rabbitmq: url: %w", err)
	}
	return u.String(), address, cfg, nil
}

// read moves our parameters from query into c and leaves amqp091's.
func (c *Config) read(query url.Values) error {
	var faults []error
	var unknown []string
	for name, values := range query {
		if slices.Contains(serverParameters, name) {
			continue
		}
		var err error
		switch value := values[len(values)-1]; name {
		case "exchange":
			c.Exchange = value
		case "queue_type":
			c.QueueType = value
		case "name":
			c.Name = value
		case "prefetch":
			c.Prefetch, err = positive(value)
		case "window":
			c.Window, err = positive(value)
		case "confirm_timeout":
			if c.ConfirmTimeout, err = time.ParseDuration(value); err == nil && c.ConfirmTimeout <= 0 {
				err = fmt.Errorf("%q is not positive", value)
			}
		case "heartbeat":
			var seconds int
			seconds, err = positive(value)
			c.Heartbeat = time.Duration(min(seconds, 1<<16)) * time.Second
		case "connection_timeout":
			var ms int
			ms, err = positive(value)
			c.DialTimeout = time.Duration(ms) * time.Millisecond
		default:
			unknown = append(unknown, name)
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("rabbitmq: url: parameter %s: %w", name, err))
		}
		delete(query, name)
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		known := slices.Sorted(slices.Values(slices.Concat(ownParameters, serverParameters)))
		faults = append(faults, fmt.Errorf("rabbitmq: url: unknown parameters: %s; known are %s", strings.Join(unknown, ", "), strings.Join(known, ", ")))
	}
	return errors.Join(faults...)
}

func positive(value string) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%q is not a positive whole number", value)
	}
	return n, nil
}
