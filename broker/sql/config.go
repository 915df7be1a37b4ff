package sql

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Defaults of [Config].
const (
	// DefaultSchema is the schema of the broker's tables.
	DefaultSchema = "lockstep_broker"
	// DefaultPrefetch is django-cqrs's.
	DefaultPrefetch = 1001
	// DefaultWindow keeps the database busy.
	DefaultWindow = 4096
	// DefaultMaxSize is far below what PostgreSQL takes in one statement.
	DefaultMaxSize = 64 << 20
	// DefaultPoll is the longest pause between two looks into an empty queue.
	DefaultPoll = 200 * time.Millisecond
	// DefaultLease is how long the messages of a vanished process stay out of reach.
	DefaultLease = 10 * time.Second
	// DefaultTimeout is the default of ConfirmTimeout.
	DefaultTimeout = 10 * time.Second
)

// Limits of [Config].
const (
	maxSchema = 63 // bytes of a name in PostgreSQL
	maxSize   = 256 << 20
	minLease  = time.Second
	minPoll   = 10 * time.Millisecond
)

// Config tunes a [Broker]. The zero value works. A parameter in the URL's query (given in brackets)
// takes precedence over the field.
type Config struct {
	// Schema is where the broker's tables are, at most 63 bytes. All who share a broker name the same
	// one; the connection's search_path is not looked at. Default: [DefaultSchema]. [schema]
	Schema string
	// Prefetch is how many messages a subscription holds that are neither acked nor nacked.
	// With 1, the next message comes only after the last one was acked. Default: [DefaultPrefetch]. [prefetch]
	Prefetch int
	// Window is how many published messages may wait for being stored; PublishAsync blocks while there
	// are more. Default: [DefaultWindow]. [window]
	Window int
	// MaxSize is the largest message, payload and metadata, in bytes; larger ones are refused. At most
	// 256 MiB. Default: [DefaultMaxSize]. [max_size]
	MaxSize int
	// Poll is the longest pause between two looks into an empty queue, at least 10 ms; the first ones
	// are shorter. Default: [DefaultPoll]. [poll, as in 200ms]
	Poll time.Duration
	// Lease is how long the messages that a process holds stay out of the others' reach after it has
	// died or was cut off, at least 1 s. A living one renews it. Default: [DefaultLease]. [lease]
	Lease time.Duration
	// ConfirmTimeout is how long the database may be silent: it bounds storing, binding and every other
	// call. Default: [DefaultTimeout]. [confirm_timeout]
	ConfirmTimeout time.Duration
	// Logger is told of lost and regained connections. Default: discard.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	c.Schema = cmp.Or(c.Schema, DefaultSchema)
	c.Prefetch = cmp.Or(c.Prefetch, DefaultPrefetch)
	c.Window = cmp.Or(c.Window, DefaultWindow)
	c.MaxSize = cmp.Or(c.MaxSize, DefaultMaxSize)
	c.Poll = cmp.Or(c.Poll, DefaultPoll)
	c.Lease = cmp.Or(c.Lease, DefaultLease)
	c.ConfirmTimeout = cmp.Or(c.ConfirmTimeout, DefaultTimeout)
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	return c
}

// validate reports every fault of a Config that has its defaults.
func (c Config) validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf("sql: config: "+format, args...)) }
	if len(c.Schema) > maxSchema || strings.ContainsRune(c.Schema, 0) {
		fault("Schema is %.80q, not a name of at most %d bytes", c.Schema, maxSchema)
	}
	if c.Prefetch < 1 {
		fault("Prefetch is %d, not positive", c.Prefetch)
	}
	if c.Window < 1 {
		fault("Window is %d, not positive", c.Window)
	}
	if c.MaxSize < 1 || c.MaxSize > maxSize {
		fault("MaxSize is %d, not 1 to %d", c.MaxSize, maxSize)
	}
	if c.Poll < minPoll {
		fault("Poll is %v, below %v", c.Poll, minPoll)
	}
	if c.Lease < minLease {
		fault("Lease is %v, below %v", c.Lease, minLease)
	}
	if c.ConfirmTimeout < 0 {
		fault("ConfirmTimeout is %v, not positive", c.ConfirmTimeout)
	}
	return errors.Join(faults...)
}

// parse takes the broker's parameters out of a URL and returns what lib/pq connects to, and the
// address for people. Its errors never hold the URL, nor what net/url says of it: both may contain a
// password.
func parse(raw string, cfg *Config) (dsn, address string, _ error) {
	u, err := url.Parse(raw)
	_, rest, whole := strings.Cut(raw, "://")
	end := strings.IndexAny(rest, "/?#")
	if err != nil || !whole || end >= 0 && strings.Contains(rest[end:], "@") {
		return "", "", errors.New("sql: url: cannot be read; want postgres://user:password@host:5432/database; " +
			"reserved characters in the user name and the password must be percent-encoded")
	}
	address = (&url.URL{Scheme: u.Scheme, User: u.User, Host: u.Host, Path: u.Path}).Redacted()
	if u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return "", address, fmt.Errorf("sql: url: the scheme is %.20q, not postgres or postgresql", u.Scheme)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return "", address, errors.New("sql: url: the query is malformed")
	}
	if err := cfg.read(query); err != nil {
		return "", address, err
	}
	if !query.Has("connect_timeout") {
		query.Set("connect_timeout", strconv.Itoa(int(DefaultTimeout.Seconds())))
	}
	u.RawQuery = query.Encode()
	return u.String(), address, nil
}

// read moves our parameters from query into c and leaves lib/pq's.
func (c *Config) read(query url.Values) error {
	var faults []error
	for name, set := range map[string]func(value string) error{
		"schema":          func(value string) error { c.Schema = value; return nil },
		"prefetch":        number(&c.Prefetch),
		"window":          number(&c.Window),
		"max_size":        number(&c.MaxSize),
		"poll":            duration(&c.Poll),
		"lease":           duration(&c.Lease),
		"confirm_timeout": duration(&c.ConfirmTimeout),
	} {
		if !query.Has(name) {
			continue
		}
		if err := set(query.Get(name)); err != nil {
			faults = append(faults, fmt.Errorf("sql: url: parameter %s is %.40q: %w", name, query.Get(name), err))
		}
		query.Del(name)
	}
	return errors.Join(faults...)
}

func number(field *int) func(string) error {
	return func(value string) (err error) {
		if *field, err = strconv.Atoi(value); err != nil || *field < 1 {
			return errors.New("want a positive whole number")
		}
		return nil
	}
}

func duration(field *time.Duration) func(string) error {
	return func(value string) (err error) {
		if *field, err = time.ParseDuration(value); err != nil || *field <= 0 {
			return errors.New("want a positive duration, as in 10s")
		}
		return nil
	}
}
