package jetstream_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/lockstep-go/lockstep/broker/jetstream"
)

// asVersion returns the URL of a server that says it is of another version.
func asVersion(t *testing.T, server, version string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() {
		_ = listener.Close()
		serving.Wait()
	})
	serve := func(client net.Conn) {
		defer func() { _ = client.Close() }()
		conn, err := net.Dial("tcp", strings.TrimPrefix(server, "nats://"))
		if err != nil {
			return
		}
		serving.Go(func() {
			_, _ = io.Copy(conn, client)
			_ = conn.Close()
		})
		own := regexp.MustCompile(`"version":"[^"]*"`)
		for from := bufio.NewReader(conn); ; {
			line, err := from.ReadString('\n')
			if strings.HasPrefix(line, "INFO ") {
				line = own.ReplaceAllString(line, `"version":"`+version+`"`)
			}
			if _, failed := io.WriteString(client, line); err != nil || failed != nil {
				return
			}
		}
	}
	serving.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { serve(client) })
		}
	})
	return "nats://" + listener.Addr().String()
}

// A server that is too old is told so, and finds no stream that it made half.
func TestServerThatIsTooOld(t *testing.T) {
	t.Parallel()
	srv := startServer(t, t.TempDir(), -1)
	nc, err := nats.Connect(srv.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := natsjs.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"2.9.10", "2.11.0", "1.4.1"} {
		b, err := jetstream.Open(t.Context(), strings.Replace(asVersion(t, srv.ClientURL(), version), "//", "//user:s3cret@", 1), jetstream.Config{})
		if err == nil {
			_ = b.Close()
			t.Fatalf("Open on %s: no error", version)
		}
		if !strings.Contains(err.Error(), "nats-server "+version) || !strings.Contains(err.Error(), "2.12") || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("Open on %s: %v, want an error with its version and the needed one", version, err)
		}
		if _, err := js.Stream(t.Context(), "cqrs"); !errors.Is(err, natsjs.ErrStreamNotFound) {
			t.Errorf("after Open on %s, the stream: %v, want none", version, err)
		}
	}
	// What was made by a server that can do it is used, and what says nothing is tried.
	open(t, asVersion(t, srv.ClientURL(), "unknown"), jetstream.Config{})
	open(t, asVersion(t, srv.ClientURL(), "2.9.10"), jetstream.Config{})
	for _, version := range []string{"2.12.0", "2.15.2-RC.1", "3.0.0"} {
		open(t, asVersion(t, srv.ClientURL(), version)+"?stream="+strings.NewReplacer(".", "_").Replace(version), jetstream.Config{})
	}
}
