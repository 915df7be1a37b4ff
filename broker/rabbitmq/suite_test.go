package rabbitmq

import (
	"context"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"

	"github.com/lockstep-go/lockstep/broker/brokertest"
)

// noting remembers the queues that a suite makes up, so that they can be deleted.
type noting struct {
	*Broker
	r *rig
}

func (n noting) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	n.r.deleteLater(topic)
	return n.Broker.Subscribe(ctx, topic)
}

func (n noting) SubscribeInitialize(topic string) error {
	n.r.deleteLater(topic)
	return n.Broker.SubscribeInitialize(topic)
}

func (n noting) Bind(ctx context.Context, queue string, topics ...string) error {
	n.r.deleteLater(queue)
	return n.Broker.Bind(ctx, queue, topics...)
}

func (n noting) PublishAfter(ctx context.Context, delay time.Duration, topic string, msg *message.Message) error {
	n.r.deleteLater(delayQueue(n.r.exchange, delay).QueueName)
	return n.Broker.PublishAfter(ctx, delay, topic, msg)
}

// TestContract is the suite that all our adapters pass.
func TestContract(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	brokertest.Run(t, func(*testing.T) brokertest.Adapter { return noting{r.open(Config{}), r} })
}

func (r *rig) pubSub(cfg Config) tests.PubSubConstructor {
	return func(*testing.T) (message.Publisher, message.Subscriber) {
		return r.open(cfg), noting{r.open(cfg), r}
	}
}

// TestWatermillSuite runs with a prefetch of one, as watermill-amqp's own tests do: the suite takes
// guaranteed order to mean that the next message comes only after the last one was acked.
func TestWatermillSuite(t *testing.T) {
	tests.TestPubSub(t, tests.Features{
		GuaranteedOrder:                     true,
		GuaranteedOrderWithSingleSubscriber: true,
		Persistent:                          true,
	}, newRig(t).pubSub(Config{Prefetch: 1}), nil)
}

// TestWatermillSuitePrefetching is the suite as users run it, but for the test just spoken of.
func TestWatermillSuitePrefetching(t *testing.T) {
	tests.TestPubSub(t, tests.Features{Persistent: true}, newRig(t).pubSub(Config{}), nil)
	t.Run("TestPublishSubscribeInOrder", func(t *testing.T) {
		features := tests.Features{
			GuaranteedOrder:                     true,
			GuaranteedOrderWithSingleSubscriber: true,
			Persistent:                          true,
		}
		tests.TestPublishSubscribeInOrder(t, tests.TestContext{TestID: tests.NewTestID(), Features: features},
			newRig(t).pubSub(Config{}))
	})
}
