package sql_test

import (
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"

	"github.com/lockstep-go/lockstep/broker/brokertest"
	"github.com/lockstep-go/lockstep/broker/sql"
)

// TestContract is the suite that all our adapters pass.
func TestContract(t *testing.T) {
	t.Parallel()
	_, at := newRig(t)
	brokertest.Run(t, func(t *testing.T) brokertest.Adapter { return open(t, at, sql.Config{}) })
}

// TestWatermill is Watermill's suite. It takes guaranteed order to mean that the next message comes only
// after the last one was acked, which is only true of Prefetch 1.
func TestWatermill(t *testing.T) {
	run := func(t *testing.T, cfg sql.Config, features tests.Features) {
		_, at := newRig(t)
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
