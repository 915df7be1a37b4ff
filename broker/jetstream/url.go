package jetstream

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// schemeEmbedded is the URL scheme of the server inside the process.
const schemeEmbedded = "jetstream+embedded"

// defaultSync is the embedded server's fsync interval.
const defaultSync = time.Second

// target is what a broker URL says.
type target struct {
	servers  string        // for nats.Connect; empty when embedded
	security security      // towards the servers
	dir      string        // of the embedded server
	sync     time.Duration // its fsync interval; 0: before each confirmation
}

// shown names the servers for people: without users, for a user alone is a token.
func (t target) shown() string {
	if t.dir != "" {
		return t.dir
	}
	hosts := strings.Split(t.servers, ",")
	for i, server := range hosts {
		if u, err := url.Parse(server); err == nil { // parseServers has read it before
			hosts[i] = u.Scheme + "://" + u.Host
		}
	}
	return strings.Join(hosts, ",")
}

// parse reads a broker URL, whose parameters go before the fields of cfg. Its
// errors never hold the URL, nor what net/url says of it: both may contain a
// password.
func parse(raw string, cfg *Config) (target, error) {
	if strings.HasPrefix(raw, schemeEmbedded+":") {
		return parseEmbedded(raw, cfg)
	}
	return parseServers(raw, cfg)
}

func parseEmbedded(raw string, cfg *Config) (target, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host != "" || u.User != nil || !filepath.IsAbs(filepath.FromSlash(u.Path)) || u.Path == "/" {
		return target{}, errors.New("jetstream: url: want " + schemeEmbedded + ":///folder with an absolute path and no host")
	}
	t := target{dir: filepath.FromSlash(u.Path), sync: defaultSync}
	params := cfg.parameters()
	params["sync"] = func(value string) (err error) {
		t.sync, err = parseSync(value)
		return err
	}
	err = params.read(u)
	return t, err
}

// parseSync reads the embedded server's fsync policy.
func parseSync(value string) (time.Duration, error) {
	if value == "always" {
		return 0, nil
	}
	d, err := time.ParseDuration(value)
	if err != nil || d < 10*time.Millisecond {
		return 0, errors.New(`want "always" or a duration from 10ms`)
	}
	return d, nil
}

// parseServers reads one or more NATS URLs, separated by commas. Those behind the
// first may be a mere host:port, which has scheme and user of the one before.
// Parameters may stand behind any of them.
func parseServers(raw string, cfg *Config) (target, error) {
	var t target
	params := cfg.parameters()
	t.security.parameters(params)
	var servers []string
	before := &url.URL{}
	for i, part := range strings.Split(raw, ",") {
		part = strings.TrimSpace(part)
		bare := i > 0 && !strings.Contains(part, "://")
		if bare {
			part = before.Scheme + "://" + part
		}
		_, rest, _ := strings.Cut(part, "://")
		if end := strings.IndexAny(rest, "/?#"); end >= 0 && strings.Contains(rest[end:], "@") { // a part of a password would be the host
			return target{}, fmt.Errorf("jetstream: url: server %d cannot be read; reserved characters in the user name and the password must be percent-encoded", i+1)
		}
		u, err := url.Parse(part)
		if err != nil || u.Host == "" || (u.Scheme != "nats" && u.Scheme != "tls") || bare && u.User != nil {
			return target{}, fmt.Errorf("jetstream: url: server %d is malformed, want nats://host:port or tls://host:port", i+1)
		}
		if err := params.read(u); err != nil {
			return target{}, err
		}
		if bare {
			u.User = before.User
		}
		before = u
		if t.security.user == nil {
			t.security.user = u.User
		}
		u.RawQuery, u.Fragment, u.Path = "", "", ""
		servers = append(servers, u.String())
	}
	t.servers = strings.Join(servers, ",")
	return t, t.security.check()
}

// parameters are the known parameters of a URL's query and what sets them.
type parameters map[string]func(value string) error

// parameters returns those that set a field of the Config.
func (c *Config) parameters() parameters {
	number := func(field *int) func(string) error {
		return func(value string) (err error) {
			if *field, err = strconv.Atoi(value); err != nil || *field < 1 {
				return errors.New("want a positive number")
			}
			return nil
		}
	}
	duration := func(field *time.Duration) func(string) error {
		return func(value string) (err error) {
			if *field, err = time.ParseDuration(value); err != nil || *field <= 0 {
				return errors.New("want a positive duration, as in 10s")
			}
			return nil
		}
	}
	return parameters{
		"stream": func(value string) error {
			c.Stream = value
			return nil
		},
		"replicas":        number(&c.Replicas),
		"prefetch":        number(&c.Prefetch),
		"window":          number(&c.Window),
		"confirm_timeout": duration(&c.ConfirmTimeout),
		"ack_wait":        duration(&c.AckWait),
	}
}

// read sets what the URL's query says and reports all its faults.
func (p parameters) read(u *url.URL) error {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return errors.New("jetstream: url: the query is malformed")
	}
	var errs []error
	for key, values := range query {
		if set, ok := p[key]; !ok {
			known := strings.Join(slices.Sorted(maps.Keys(p)), ", ")
			errs = append(errs, fmt.Errorf("jetstream: url: unknown parameter %q; known are %s", key, known))
		} else if err := set(values[0]); err != nil {
			errs = append(errs, fmt.Errorf("jetstream: url: parameter %s is %q: %w", key, values[0], err))
		}
	}
	return errors.Join(errs...)
}
