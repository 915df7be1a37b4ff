package rabbitmq

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"
)

// selfSigned returns a certificate for 127.0.0.1 and a pool that trusts it.
func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(certificate)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// TestTLS puts a listener with TLS before the server.
func TestTLS(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	certificate, pool := selfSigned(t)
	p, url := r.proxied()
	front, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate}})
	if err != nil {
		t.Fatal(err)
	}
	plain := p.listener.Addr().String()
	t.Cleanup(func() { _ = front.Close() })
	go func() {
		for {
			client, err := front.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", plain)
			if err != nil {
				_ = client.Close()
				continue
			}
			go pipe(server, client, &gate{})
			go pipe(client, server, &gate{})
		}
	}()
	url = "amqps" + strings.TrimPrefix(strings.Replace(url, plain, front.Addr().String(), 1), "amqp")

	if _, err := Open(context.Background(), url, Config{Exchange: r.exchange}); err == nil {
		t.Error("an unknown certificate: want an error")
	}
	b, queue := r.openAt(url, Config{TLS: &tls.Config{RootCAs: pool}}), r.queue()
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
