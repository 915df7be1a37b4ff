package jetstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"

	"github.com/nats-io/nats.go"
)

// security is what a URL says about TLS and about who we are.
type security struct {
	user             *url.Userinfo // for servers that the cluster tells us of, too
	credentials      string        // file for nats.UserCredentials
	nkey             string        // file with the seed of an nkey
	ca               string        // file with the certificate authorities to trust
	certificate, key string        // files of the client's certificate
	serverName       string        // to be found in the server's certificate
}

// parameters adds those that set a field.
func (s *security) parameters(all parameters) {
	for name, field := range map[string]*string{
		"creds": &s.credentials, "nkey": &s.nkey, "cacertfile": &s.ca,
		"certfile": &s.certificate, "keyfile": &s.key, "server_name_indication": &s.serverName,
	} {
		all[name] = func(value string) error {
			if value == "" {
				return errors.New("want a value")
			}
			*field = value
			return nil
		}
	}
}

// check reports what contradicts itself.
func (s *security) check() error {
	var errs []error
	if (s.certificate == "") != (s.key == "") {
		errs = append(errs, errors.New("jetstream: url: certfile and keyfile: a client's certificate needs both"))
	}
	if s.credentials != "" && s.nkey != "" {
		errs = append(errs, errors.New("jetstream: url: creds and nkey: give one of them"))
	}
	return errors.Join(errs...)
}

// options returns what nats.Connect needs. The files are read for each connection.
func (s *security) options() ([]nats.Option, error) {
	opts := userOption(s.user)
	if s.credentials != "" {
		opts = append(opts, nats.UserCredentials(s.credentials))
	}
	if s.nkey != "" {
		nkey, err := nats.NkeyOptionFromSeed(s.nkey)
		if err != nil {
			return nil, fmt.Errorf("nkey file %s: %w", s.nkey, err)
		}
		opts = append(opts, nkey)
	}
	if s.serverName != "" {
		opts = append(opts, nats.Secure(&tls.Config{ServerName: s.serverName, MinVersion: tls.VersionTLS12}))
	}
	if s.ca != "" {
		opts = append(opts, nats.RootCAs(s.ca))
	}
	if s.certificate != "" {
		opts = append(opts, nats.ClientCert(s.certificate, s.key))
	}
	return opts, nil
}

// userOption lets the servers that a cluster announces, whose addresses come
// without, have the URL's user.
func userOption(user *url.Userinfo) []nats.Option {
	if user == nil {
		return nil
	}
	password, both := user.Password()
	if !both {
		return []nats.Option{nats.Token(user.Username())}
	}
	return []nats.Option{nats.UserInfo(user.Username(), password)}
}

// withRemedy says what to do about a connection that was refused.
func withRemedy(err error) error {
	remedy := ""
	var op *net.OpError
	switch {
	case errors.As(err, new(x509.UnknownAuthorityError)):
		remedy = "name the file of the certificate authority that signed the server's certificate: cacertfile=FILE in the URL"
	case errors.As(err, new(x509.HostnameError)):
		remedy = "connect to a name that is in the server's certificate, or give that name: server_name_indication=NAME in the URL"
	case errors.Is(err, nats.ErrSecureConnWanted):
		remedy = "the server does not speak TLS: write nats:// and none of cacertfile, certfile, server_name_indication"
	case errors.Is(err, nats.ErrAuthorization):
		remedy = "correct user and password, or the token, in the URL, or what creds=FILE or nkey=FILE name"
	case errors.Is(err, nats.ErrTLS), errors.As(err, &op) && op.Op == "remote error": // crypto/tls's word for an alert
		remedy = "where the server wants a certificate of the client, name one that it trusts: certfile=FILE&keyfile=FILE in the URL"
	default:
		return err
	}
	return fmt.Errorf("%w; %s", err, remedy)
}
