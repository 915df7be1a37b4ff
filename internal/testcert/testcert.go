// Package testcert makes certificates for tests of TLS, in memory and in files, which go with the test.
package testcert

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
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Pair is a certificate with its key.
type Pair struct {
	// CertFile and KeyFile hold them in PEM form.
	CertFile, KeyFile string

	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Authority signs certificates by a certificate of its own.
type Authority struct{ Pair }

// New makes an authority.
func New(t testing.TB) *Authority {
	t.Helper()
	return &Authority{Pair: *sign(t, nil, &x509.Certificate{
		Subject: pkix.Name{CommonName: "lockstep test authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})}
}

// Pool trusts the authority alone.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// Sign makes a certificate for a host, a name or an IP address, that servers and clients can use.
func (a *Authority) Sign(t testing.TB, host string) *Pair {
	t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: host}, DNSNames: []string{host}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip := net.ParseIP(host); ip != nil {
		template.DNSNames, template.IPAddresses = nil, []net.IP{ip}
	}
	return sign(t, &a.Pair, template)
}

// Server is the configuration of a server that shows the certificate.
func (p *Pair) Server() *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{p.cert.Raw}, PrivateKey: p.key}}, MinVersion: tls.VersionTLS12,
	}
}

// sign has the certificate signed by parent, or by itself if there is none.
func sign(t testing.TB, parent *Pair, template *x509.Certificate) *Pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("testcert: %v", err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	if parent == nil {
		parent = &Pair{cert: template, key: key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.cert, &key.PublicKey, parent.key)
	if err != nil {
		t.Fatalf("testcert: %v", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatalf("testcert: %v", err)
	}
	dir := t.TempDir()
	p := &Pair{CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"), key: key}
	if p.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatalf("testcert: %v", err)
	}
	write(t, p.CertFile, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	write(t, p.KeyFile, &pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	return p
}

func write(t testing.TB, path string, block *pem.Block) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatalf("testcert: %v", err)
	}
}
