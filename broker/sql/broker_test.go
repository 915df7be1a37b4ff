package sql_test

import (
	"net/url"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"

	"github.com/lockstep-go/lockstep/broker/brokertest"
	"github.com/lockstep-go/lockstep/broker/sql"
	"github.com/lockstep-go/lockstep/internal/testdb"
)

// brokerURL is a broker of the test's own: a schema, which goes at its end.
func brokerURL(t *testing.T) string {
	t.Helper()
	_, dsn := testdb.Postgres(t)
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatalf("testdb's address: %v", err)
	}
	q := u.Query()
	q.Set("schema", q.Get("search_path"))
	q.Del("search_path")
	u.RawQuery = q.Encode()
	return u.String()
}

func open(t *testing.T, at string, cfg sql.Config) *sql.Broker {
	t.Helper()
	b, err := sql.Open(t.Context(), at, cfg)
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

// TestContract is the suite that all our adapters pass.
func TestContract(t *testing.T) {
	t.Parallel()
	at := brokerURL(t)
	brokertest.Run(t, func(t *testing.T) brokertest.Adapter { return open(t, at, sql.Config{}) })
}

// TestWatermill is Watermill's suite. It takes guaranteed order to mean that the next message comes only
// after the last one was acked, which is only true of Prefetch 1.
func TestWatermill(t *testing.T) {
	run := func(t *testing.T, cfg sql.Config, features tests.Features) {
		at := brokerURL(t)
		features.Persistent = true
		tests.TestPubSub(t, features, func(t *testing.T) (message.Publisher, message.Subscriber) {
			return open(t, at, cfg), open(t, at, cfg)
		}, nil)
	}
	t.Run("DefaultPrefetch", func(t *testing.T) { run(t, sql.Config{}, tests.Features{}) })
	t.Run("PrefetchOne", func(t *testing.T) {
		run(t, sql.Config{Prefetch: 1}, tests.Features{
			GuaranteedOrder: true, GuaranteedOrderWithSingleSubscriber: true, ForceShort: true,
		})
	})
}
