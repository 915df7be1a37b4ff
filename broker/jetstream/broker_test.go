package jetstream_test

import (
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/lockstep-go/lockstep/broker/brokertest"
	"github.com/lockstep-go/lockstep/broker/jetstream"
)

var (
	_ message.Publisher            = (*jetstream.Broker)(nil)
	_ message.Subscriber           = (*jetstream.Broker)(nil)
	_ message.SubscribeInitializer = (*jetstream.Broker)(nil)
)

// startServer runs a NATS server that listens on the port, -1 for any.
func startServer(t testing.TB, dir string, port int) *server.Server {
	t.Helper()
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true,
	})
	if err != nil {
		t.Fatalf("NATS server: %v", err)
	}
	srv.Start()
	t.Cleanup(func() { stopServer(srv) })
	if !srv.ReadyForConnections(20 * time.Second) {
		t.Fatal("NATS server: not ready")
	}
	return srv
}

func stopServer(srv *server.Server) {
	srv.Shutdown()
	srv.WaitForShutdown()
}

func open(t testing.TB, url string, cfg jetstream.Config) *jetstream.Broker {
	t.Helper()
	b, err := jetstream.Open(t.Context(), url, cfg)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return b
}

func TestContractEmbedded(t *testing.T) {
	t.Parallel()
	brokertest.Run(t, func(t *testing.T) brokertest.Adapter {
		return open(t, "jetstream+embedded://"+t.TempDir(), jetstream.Config{})
	})
}

func TestContractServer(t *testing.T) {
	t.Parallel()
	srv := startServer(t, t.TempDir(), -1)
	brokertest.Run(t, func(t *testing.T) brokertest.Adapter {
		return open(t, srv.ClientURL(), jetstream.Config{})
	})
}

// TestWatermill is Watermill's suite. The order is guaranteed, but the suite
// takes that for "one message at a time", which is only true of Prefetch 1.
func TestWatermill(t *testing.T) {
	t.Parallel()
	srv := startServer(t, t.TempDir(), -1)
	run := func(t *testing.T, cfg jetstream.Config, features tests.Features) {
		features.Persistent = true
		tests.TestPubSub(t, features, func(t *testing.T) (message.Publisher, message.Subscriber) {
			// The suite closes publisher and subscriber separately.
			return open(t, srv.ClientURL(), cfg), open(t, srv.ClientURL(), cfg)
		}, nil)
	}
	t.Run("DefaultPrefetch", func(t *testing.T) {
		t.Parallel()
		run(t, jetstream.Config{}, tests.Features{})
	})
	t.Run("PrefetchOne", func(t *testing.T) {
		t.Parallel()
		run(t, jetstream.Config{Prefetch: 1}, tests.Features{
			GuaranteedOrder: true, GuaranteedOrderWithSingleSubscriber: true, ForceShort: true,
		})
	})
}

// TestServerWithoutJetStream: the error says what the server lacks.
func TestServerWithoutJetStream(t *testing.T) {
	t.Parallel()
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { stopServer(srv) })
	if !srv.ReadyForConnections(20 * time.Second) {
		t.Fatal("NATS server: not ready")
	}
	if _, err := jetstream.Open(t.Context(), srv.ClientURL(), jetstream.Config{}); err == nil || !strings.Contains(err.Error(), "--jetstream") {
		t.Errorf("have %v, want an error that names --jetstream", err)
	}
}
