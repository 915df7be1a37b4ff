package integration_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/lockstep-go/lockstep/internal/testcert"
)

// Relay and consumer reach a RabbitMQ that wants TLS and a certificate of the client,
// through the first of two hosts that is there, and again after it was stopped.
func TestRabbitMQOverTLS(t *testing.T) {
	t.Parallel()
	ca := testcert.New(t)
	server, client := ca.Sign(t, "127.0.0.1"), ca.Sign(t, "relay")
	port := freePort(t)
	n := newNode(t, fmt.Sprintf(`listeners.ssl.1 = 127.0.0.1:%d
ssl_options.cacertfile = %s
ssl_options.certfile = %s
ssl_options.keyfile = %s
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
`, port, ca.CertFile, server.CertFile, server.KeyFile))
	r := newRigOn(t, nil, n, account())
	r.brokerURL = strings.Replace("amqps"+strings.TrimPrefix(r.brokerURL, "amqp"),
		strings.TrimSuffix(strings.TrimPrefix(n.url, "amqp://guest:guest@"), "/"), loopback(freePort(t))+","+loopback(port), 1) +
		"&" + url.Values{"cacertfile": {ca.CertFile}, "certfile": {client.CertFile}, "keyfile": {client.KeyFile}}.Encode()
	re := r.startRelay(t, r.brokerURL)
	c := r.startConsumer(t)
	w := r.startWriters(t)
	r.progress(t)
	n.stop(n.quit)
	r.logs.await(t, paused, 0)
	n.start(t)
	r.progress(t)
	w.stop()
	r.caughtUp(t)
	spared(t, re, c)
	r.settled(t)
}
