package jetstream_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/lockstep-go/lockstep/broker/jetstream"
)

// certified is a certificate with its key, in files too.
type certified struct {
	cert            *x509.Certificate
	key             *ecdsa.PrivateKey
	certPEM, keyPEM string // the files
}

// certify signs a certificate for a host, by itself if there is no authority.
func certify(t *testing.T, authority *certified, host string) *certified {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	parent, signer := template, key
	switch ip := net.ParseIP(host); {
	case authority == nil:
		template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	case ip != nil:
		parent, signer, template.IPAddresses = authority.cert, authority.key, []net.IP{ip}
	default:
		parent, signer, template.DNSNames = authority.cert, authority.key, []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	c := &certified{key: key, certPEM: filepath.Join(t.TempDir(), "cert.pem"), keyPEM: filepath.Join(t.TempDir(), "key.pem")}
	if c.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, c.certPEM, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	writeFile(t, c.keyPEM, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	return c
}

func writeFile(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (c *certified) server() *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{c.cert.Raw}, PrivateKey: c.key}}, MinVersion: tls.VersionTLS12,
	}
}

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
	ca, other := certify(t, nil, ""), certify(t, nil, "")
	client := certify(t, ca, "client")
	here, elsewhere := certify(t, ca, "127.0.0.1").server(), certify(t, ca, "nats.example").server()
	mutual := certify(t, ca, "127.0.0.1").server()
	mutual.ClientAuth, mutual.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
	mutual.ClientCAs.AddCert(ca.cert)
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
	writeFile(t, seedFile, seed)

	password := server.Options{Username: "u", Password: secret}
	with := func(opts server.Options, cfg *tls.Config) *server.Options {
		opts.TLSConfig = cfg
		return &opts
	}
	trusted := url.Values{"cacertfile": {ca.certPEM}}
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
		"another authority":                     {with(password, here), "tls", "u:" + secret, url.Values{"cacertfile": {other.certPEM}}, "cacertfile=FILE"},
		"another host's certificate":            {with(password, elsewhere), "tls", "u:" + secret, trusted, "server_name_indication=NAME"},
		"the name in the certificate": {
			with(password, elsewhere), "tls", "u:" + secret,
			url.Values{"cacertfile": {ca.certPEM}, "server_name_indication": {"nats.example"}},
			"",
		},
		"no client certificate": {with(password, mutual), "tls", "u:" + secret, trusted, "certfile=FILE"},
		"a client certificate": {
			with(password, mutual), "tls", "u:" + secret,
			url.Values{"cacertfile": {ca.certPEM}, "certfile": {client.certPEM}, "keyfile": {client.keyPEM}},
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
