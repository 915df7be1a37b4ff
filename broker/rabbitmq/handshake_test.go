package rabbitmq

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/lockstep-go/lockstep/internal/testcert"
)

// TestHandshakeEndsEarly: whenever a handshake ends before its time, the error does not blame what nobody
// has complained of.
func TestHandshakeEndsEarly(t *testing.T) {
	t.Parallel()
	r, ca := newRig(t), testcert.New(t)
	served := ca.Sign(t, "127.0.0.1").Server()
	silent := func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }
	for name, test := range map[string]struct {
		scheme, params string
		serve          func(net.Conn)
		want, never    string
	}{
		"we gave it up, with TLS": {"amqps://", "", silent, context.DeadlineExceeded.Error(), paramCert},
		"we gave it up":           {"amqp://", "", silent, context.DeadlineExceeded.Error(), "password"},
		"the server went where it would check the password": {"amqp://", "", func(conn net.Conn) {
			server, err := net.Dial("tcp", strings.TrimSuffix(r.url[strings.Index(r.url, "@")+1:], "/"))
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = server.Close() }()
			buf := make([]byte, 64<<10)
			for _, pass := range []struct {
				from io.Reader
				to   io.Writer
			}{{conn, server}, {server, conn}, {conn, io.Discard}} {
				n, _ := pass.from.Read(buf)
				_, _ = pass.to.Write(buf[:n])
			}
		}, "went away", "certfile"},
		"a server with TLS hung up without an alert": {"amqps://", "?cacertfile=" + ca.CertFile, func(conn net.Conn) {
			_ = tls.Server(conn, served).Handshake()
		}, "certfile=FILE", "password"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					test.serve(conn)
					_ = conn.Close()
				}
			}()
			cfg := Config{}
			if test.want == context.DeadlineExceeded.Error() {
				cfg.DialTimeout = 200 * time.Millisecond
			}
			_, err = Open(t.Context(), test.scheme+"guest:guest@"+l.Addr().String()+"/"+test.params, cfg)
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), test.never) {
				t.Errorf("have error %v, want one with %q and without %q", err, test.want, test.never)
			}
		})
	}
}

// TestAwaitCanceled: who is not waited for any more is told so, whatever is wrong with the connection.
func TestAwaitCanceled(t *testing.T) {
	t.Parallel()
	away := errors.New("connection refused")
	l := newLink(&dialer{address: "here"}, Config{}.withDefaults().Logger, "testing")
	l.set(nil, away)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.await(ctx); !errors.Is(err, context.Canceled) || !errors.Is(err, away) {
		t.Errorf("have error %v, want both that it was canceled and what is wrong", err)
	}
}

// TestQueueOfANodeThatIsDown: RabbitMQ's code for it is that of a queue which does not exist.
func TestQueueOfANodeThatIsDown(t *testing.T) {
	t.Parallel()
	for reason, want := range map[string]bool{
		"NOT_FOUND - no queue 'q' in vhost '/'":                                                        true,
		"NOT_FOUND - home node 'rabbit@one' of durable queue 'q' in vhost '/' is down or inaccessible": false,
	} {
		if have := isNoQueue(&amqp.Error{Code: amqp.NotFound, Reason: reason, Server: true}); have != want {
			t.Errorf("%s: taken for one that does not exist: %v, want %v", reason, have, want)
		}
	}
}
