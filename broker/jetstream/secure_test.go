package jetstream_test

import (
	"crypto/tls"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/lockstep-go/lockstep/broker/jetstream"
	"github.com/lockstep-go/lockstep/internal/testcert"
)

// startGuarded runs a server with the options.
func startGuarded(t *testing.T, opts *server.Options) (addr string) {
	t.Helper()
	opts.Host, opts.Port, opts.JetStream, opts.StoreDir, opts.NoSigs, opts.NoLog = "127.0.0.1", -1, true, t.TempDir(), true, true
	if opts.TLSConfig != nil {
		opts.TLS, opts.TLSTimeout = true, 10
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		t.Fatalf("NATS server: %v", err)
	}
	srv.Start()
	t.Cleanup(func() { stopServer(srv) })
	if !srv.ReadyForConnections(20 * time.Second) {
		t.Fatal("NATS server: not ready")
	}
	return srv.Addr().String()
}

// TestSecurity: what the URL can say about TLS and about who we are. An error says
// what to do, without a secret.
func TestSecurity(t *testing.T) {
	t.Parallel()
	const secret = "s3cret"
	ca, other := testcert.New(t), testcert.New(t)
	client := ca.Sign(t, "client")
	here, elsewhere := ca.Sign(t, "127.0.0.1").Server(), ca.Sign(t, "nats.example").Server()
	mutual := ca.Sign(t, "127.0.0.1").Server()
	mutual.ClientAuth, mutual.ClientCAs = tls.RequireAndVerifyClientCert, ca.Pool()
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := user.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	seedFile := filepath.Join(t.TempDir(), "user.nk")
	if err := os.WriteFile(seedFile, seed, 0o600); err != nil {
		t.Fatal(err)
	}

	password := server.Options{Username: "u", Password: secret}
	with := func(opts server.Options, cfg *tls.Config) *server.Options {
		opts.TLSConfig = cfg
		return &opts
	}
	trusted := url.Values{"cacertfile": {ca.CertFile}}
	for name, test := range map[string]struct {
		server *server.Options
		scheme string
		user   string
		params url.Values
		want   string // of the error; empty: none
	}{
		"user and password":                     {with(password, nil), "nats", "u:" + secret, nil, ""},
		"a wrong password":                      {with(password, nil), "nats", "u:x" + secret, nil, "password"},
		"no user":                               {with(password, nil), "nats", "", nil, "creds=FILE"},
		"a token":                               {&server.Options{Authorization: secret}, "nats", secret, nil, ""},
		"a wrong token":                         {&server.Options{Authorization: "x" + secret}, "nats", secret, nil, "token"},
		"an nkey":                               {&server.Options{Nkeys: []*server.NkeyUser{{Nkey: public}}}, "nats", "", url.Values{"nkey": {seedFile}}, ""},
		"TLS, user and password":                {with(password, here), "tls", "u:" + secret, trusted, ""},
		"TLS by the file alone":                 {with(password, here), "nats", "u:" + secret, trusted, ""},
		"TLS and a wrong password":              {with(password, here), "tls", "u:x" + secret, trusted, "password"},
		"an authority the system does not know": {with(password, here), "tls", "u:" + secret, nil, "cacertfile=FILE"},
		"another authority":                     {with(password, here), "tls", "u:" + secret, url.Values{"cacertfile": {other.CertFile}}, "cacertfile=FILE"},
		"another host's certificate":            {with(password, elsewhere), "tls", "u:" + secret, trusted, "server_name_indication=NAME"},
		"the name in the certificate": {
			with(password, elsewhere), "tls", "u:" + secret,
			url.Values{"cacertfile": {ca.CertFile}, "server_name_indication": {"nats.example"}},
			"",
		},
		"no client certificate": {with(password, mutual), "tls", "u:" + secret, trusted, "certfile=FILE"},
		"a client certificate": {
			with(password, mutual), "tls", "u:" + secret,
			url.Values{"cacertfile": {ca.CertFile}, "certfile": {client.CertFile}, "keyfile": {client.KeyFile}},
			"",
		},
		"a server without TLS": {with(password, nil), "tls", "u:" + secret, trusted, "does not speak TLS"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := startGuarded(t, test.server)
			if test.user != "" {
				addr = test.user + "@" + addr
			}
			b, err := jetstream.Open(t.Context(), test.scheme+"://"+addr+"?"+test.params.Encode(), jetstream.Config{})
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), secret) {
					t.Errorf("have error %v, want one with %q and no secret", err, test.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			mustBind(t, b, "q", "account")
			mustPublish(t, b, "account", bodies(0, 10)...)
			same(t, "bodies", bodies(0, 10), take(t, subscribe(t, b, "q"), 10))
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
