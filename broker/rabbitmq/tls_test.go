package rabbitmq

import (
	"context"
	"crypto/tls"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/lockstep-go/lockstep/internal/testcert"
)

// encrypted puts a listener with TLS before the server and returns the URL through it, and the proxy
// behind the listener.
func (r *rig) encrypted(cfg *tls.Config) (*proxy, string) {
	r.t.Helper()
	p, plain := r.proxied()
	front, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	target := p.listener.Addr().String()
	r.t.Cleanup(func() { _ = front.Close() })
	go func() {
		for {
			client, err := front.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", target)
			if err != nil {
				_ = client.Close()
				continue
			}
			go pipe(server, client, &gate{})
			go pipe(client, server, &gate{})
		}
	}()
	return p, "amqps" + strings.TrimPrefix(strings.Replace(plain, target, front.Addr().String(), 1), "amqp")
}

// TestTLS carries a load, with a configuration in code.
func TestTLS(t *testing.T) {
	t.Parallel()
	r, ca := newRig(t), testcert.New(t)
	_, url := r.encrypted(ca.Sign(t, "127.0.0.1").Server())
	b, queue := r.openAt(url, Config{TLS: &tls.Config{RootCAs: ca.Pool(), MinVersion: tls.VersionTLS12}}), r.queue()
	r.bind(b, queue, "account")
	messages := r.subscribe(b, queue)
	for range 2 {
		topics, msgs := series("account", 2000)
		wait := b.PublishAsync(t.Context(), topics, msgs)
		r.receive(messages, len(msgs))
		if errs := wait(t.Context()); errs != nil {
			t.Fatal(errs)
		}
	}
}

// TestTLSByURL: what the URL can say about TLS. An error says what to do, without the password.
func TestTLSByURL(t *testing.T) {
	t.Parallel()
	r, ca, other := newRig(t), testcert.New(t), testcert.New(t)
	plain, named, mutual := ca.Sign(t, "127.0.0.1").Server(), ca.Sign(t, "rabbit.example").Server(), ca.Sign(t, "127.0.0.1").Server()
	mutual.ClientAuth, mutual.ClientCAs = tls.RequireAndVerifyClientCert, ca.Pool()
	client := func(a *testcert.Authority) url.Values {
		pair := a.Sign(t, "client")
		return url.Values{"cacertfile": {ca.CertFile}, "certfile": {pair.CertFile}, "keyfile": {pair.KeyFile}}
	}
	for name, test := range map[string]struct {
		server *tls.Config
		params url.Values
		want   string // of the error; empty: none
	}{
		"an authority that the system does not know": {plain, nil, "cacertfile=FILE"},
		"the right authority":                        {plain, url.Values{"cacertfile": {ca.CertFile}}, ""},
		"another authority":                          {plain, url.Values{"cacertfile": {other.CertFile}}, "cacertfile=FILE"},
		"another host's certificate":                 {named, url.Values{"cacertfile": {ca.CertFile}}, "server_name_indication=NAME"},
		"the name in the certificate": {
			named, url.Values{"cacertfile": {ca.CertFile}, "server_name_indication": {"rabbit.example"}}, "",
		},
		"no client certificate":              {mutual, url.Values{"cacertfile": {ca.CertFile}}, "certfile=FILE and keyfile=FILE"},
		"a client certificate":               {mutual, client(ca), ""},
		"a client certificate of another CA": {mutual, client(other), "certfile=FILE and keyfile=FILE"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			proxy, url := r.encrypted(test.server)
			b, err := Open(context.Background(), url+"?"+test.params.Encode(), Config{Exchange: r.exchange})
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "guest:guest") {
					t.Errorf("have error %v, want one with %q and no password", err, test.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = b.Close() }()
			proxy.cut() // the next connection is made like the first
			eventually(t, "publishing over another connection", func() bool { return b.Publish("account", newMessage("x")) == nil })
		})
	}
}

// TestNoTLSThere: a server that does not speak TLS is told from one that cannot be trusted.
func TestNoTLSThere(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	_, err := Open(t.Context(), "amqps"+strings.TrimPrefix(r.url, "amqp"), Config{})
	if err == nil || !strings.Contains(err.Error(), "5671") || !strings.Contains(err.Error(), "amqp://") {
		t.Errorf("have %v, want an error that speaks of the port", err)
	}
}

// systemRoots is set in the process in which the system's authorities are the test's own.
const systemRoots = "LOCKSTEP_TEST_TLS_URL"

// TestTLSByTheSystemsAuthorities: without any parameter those count that the system trusts. A process
// reads them once, so it takes one of its own.
func TestTLSByTheSystemsAuthorities(t *testing.T) {
	t.Parallel()
	if url := os.Getenv(systemRoots); url != "" {
		b, err := Open(t.Context(), url, Config{Exchange: "amq.topic"})
		if err != nil {
			t.Fatal(err)
		}
		_ = b.Close()
		return
	}
	r, ca := newRig(t), testcert.New(t)
	_, url := r.encrypted(ca.Sign(t, "127.0.0.1").Server())
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestTLSByTheSystemsAuthorities$")
	cmd.Env = append(os.Environ(), systemRoots+"="+url, "SSL_CERT_FILE="+ca.CertFile, "SSL_CERT_DIR="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("with the authority among the system's: %v\n%s", err, out)
	}
}

// TestFaultsOfTLS are told before anything is connected to, and none is passed over.
func TestFaultsOfTLS(t *testing.T) {
	t.Parallel()
	ca := testcert.New(t)
	good, key := ca.CertFile, ca.KeyFile
	for params, want := range map[string][]string{
		"amqp://u:secret@h/?cacertfile=" + good:                     {"cacertfile", "amqps://"},
		"amqp://u:secret@h/?server_name_indication=x":               {"server_name_indication", "amqps://"},
		"amqps://u:secret@h/?cacertfile=" + ca.CertFile + ".none":   {"cacertfile", ".none"},
		"amqps://u:secret@h/?cacertfile=" + key:                     {"cacertfile", "key.pem", "no certificate"},
		"amqps://u:secret@h/?certfile=" + good:                      {"certfile", "keyfile", "both"},
		"amqps://u:secret@h/?keyfile=" + key:                        {"certfile", "keyfile", "both"},
		"amqps://u:secret@h/?keyfile=" + good + "&certfile=" + good: {"certfile", "keyfile"},
	} {
		_, err := Open(t.Context(), params, Config{})
		for _, text := range append(want, "rabbitmq: url: parameter") {
			if err == nil || !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%s: have error %v, want one with %q and no password", params, err, text)
			}
		}
	}
	_, err := Open(t.Context(), "amqps://h/?cacertfile="+good, Config{TLS: &tls.Config{MinVersion: tls.VersionTLS12}})
	if err == nil || !strings.Contains(err.Error(), "Config.TLS") {
		t.Errorf("both in the URL and in code: have error %v, want one that speaks of Config.TLS", err)
	}
}
