package rabbitmq

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Query parameters about TLS. amqp091 reads the files anew for each connection, so renewed
// certificates need no restart.
const (
	paramCA         = "cacertfile"
	paramCert       = "certfile"
	paramKey        = "keyfile"
	paramServerName = "server_name_indication"
)

// checkTLS finds what amqp091 would pass over in silence, or tell only of a connection that fails.
func (c Config) checkTLS(u *url.URL, query url.Values) error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("rabbitmq: url: "+format, args...))
	}
	for _, name := range []string{paramCA, paramCert, paramKey, paramServerName} {
		switch {
		case !query.Has(name):
		case u.Scheme != "amqps":
			fault("parameter %s: the connection is not encrypted; write amqps:// for one that is", name)
		case c.TLS != nil:
			fault("parameter %s: Config.TLS is there, too, and says all about TLS; drop one of them", name)
		}
	}
	cert, key := query.Get(paramCert), query.Get(paramKey)
	switch {
	case (cert == "") != (key == ""):
		fault("parameters %s and %s: a client's certificate needs both", paramCert, paramKey)
	case cert != "":
		if _, err := tls.LoadX509KeyPair(cert, key); err != nil {
			fault("parameters %s and %s: %w", paramCert, paramKey, err)
		}
	}
	if ca := query.Get(paramCA); ca != "" {
		pem, err := os.ReadFile(ca) //nolint:gosec // the operator names the file
		if err == nil && !x509.NewCertPool().AppendCertsFromPEM(pem) {
			err = fmt.Errorf("%s holds no certificate in PEM form", ca)
		}
		if err != nil {
			fault("parameter %s: %w", paramCA, err)
		}
	}
	return errors.Join(faults...)
}

// withRemedy says what to do about a handshake that failed.
func withRemedy(url string, err error) error {
	remedy := ""
	switch {
	case err == nil:
		return nil
	case errors.As(err, new(x509.UnknownAuthorityError)):
		remedy = "name the file of the certificate authority that signed the server's certificate: " + paramCA + "=FILE in the URL"
	case errors.As(err, new(x509.HostnameError)):
		remedy = "connect to a name that is in the server's certificate, or give that name: " + paramServerName + "=NAME in the URL"
	case errors.As(err, new(tls.RecordHeaderError)):
		remedy = "the server does not speak TLS on this port: RabbitMQ's for TLS is 5671, others take amqp://"
	case errors.Is(err, amqp.ErrCredentials), errors.Is(err, amqp.ErrVhost):
		remedy = "or the server went away at that moment: it has ended the connection without a word"
	case strings.HasPrefix(url, "amqps:") && hungUp(err):
		remedy = "the server may want a client's certificate that it can verify: " + paramCert + "=FILE and " + paramKey + "=FILE in the URL"
	default:
		return err
	}
	return fmt.Errorf("%w; %s", err, remedy)
}

// hungUp reports whether a server that speaks TLS ended the connection before AMQP
// began, as it does when it misses a client's certificate. Its reason is in the error
// if it came before our next write failed.
func hungUp(err error) bool {
	var e *amqp.Error
	if errors.As(err, &e) && !e.Server && e.Code == amqp.FrameError { // of which amqp091 keeps but the text
		return true
	}
	ends := []error{amqp.ErrClosed, net.ErrClosed, io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE}
	return strings.Contains(err.Error(), "tls: ") || slices.ContainsFunc(ends, func(end error) bool { return errors.Is(err, end) })
}
