package cli

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/lockstep-go/lockstep/broker"
)

// errUnreadable holds nothing of the URL, whose password may be anywhere in it.
var errUnreadable = errors.New("not a URL as scheme://user:password@host/name: in a user name or password, characters such as % # / ? @ are written %25 %23 %2F %3F %40")

// parseServerURL reads the URL of a server. Its errors hold no part of it.
func parseServerURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	_, rest, whole := strings.Cut(raw, "://")
	if err != nil || !whole { // without the slashes, it takes user and password for a path
		return nil, errUnreadable
	}
	// With a bare / ? or # in the password, url.Parse takes its rest for a path.
	if i := strings.IndexAny(rest, "/?#"); i >= 0 && strings.Contains(rest[i:], "@") {
		return nil, errUnreadable
	}
	return u, nil
}

// shown is a server's URL as it may be printed: a query may hold a password, too.
func shown(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, User: u.User, Host: u.Host, Path: u.Path}).Redacted()
}

// checkBrokerURL finds what can be wrong with a broker's URL before anything is
// connected to.
func checkBrokerURL(raw string) error {
	scheme, _, _ := strings.Cut(raw, ":")
	switch scheme {
	case "amqp", "amqps":
		scheme, rest, _ := strings.Cut(raw, "://")
		hosts := rest
		if i := strings.IndexAny(rest, "/?#"); i >= 0 {
			hosts = rest[:i]
		}
		first, _, several := strings.Cut(hosts[strings.LastIndexByte(hosts, '@')+1:], ",")
		if several { // the broker package reads the others
			user := hosts[:strings.LastIndexByte(hosts, '@')+1]
			raw = scheme + "://" + user + first + rest[len(hosts):]
		}
		_, err := parseServerURL(raw)
		return err
	case "nats", "tls":
		var faults []error
		for server := range strings.SplitSeq(raw, ",") {
			if server = strings.TrimSpace(server); !strings.Contains(server, "://") { // a host behind the first
				server = scheme + "://" + server
			}
			if _, err := parseServerURL(server); err != nil {
				faults = append(faults, err)
			}
		}
		if len(faults) > 0 {
			return faults[0]
		}
		return nil
	case "postgres", "postgresql":
		_, err := parseServerURL(raw)
		return err
	case "jetstream+embedded", "memory":
		return nil
	}
	if scheme == raw || !strings.Contains(raw, "://") {
		return fmt.Errorf("the URL has no scheme; known are\n%s", broker.Forms)
	}
	return fmt.Errorf("unknown scheme %q; known are\n%s", scheme, broker.Forms)
}

var anyURL = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*)://[^\s"]*`)

// hideURLs takes the URLs, with their passwords, out of what someone typed.
func hideURLs(text string) string { return anyURL.ReplaceAllString(text, "$1://…") }
