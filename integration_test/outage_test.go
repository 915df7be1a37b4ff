package integration_test

import "testing"

// The way to the broker swallows messages and acknowledgements before it is
// noticed to be gone. Nobody knows then what has arrived, so it is sent again.
func TestConnectionLostInMidFlow(t *testing.T) {
	t.Parallel()
	r := newRig(t, account())
	relayWay, consumerWay := newProxy(t, r.brokerURL), newProxy(t, r.brokerURL)
	re := r.startRelay(t, relayWay.url)
	c := r.startConsumer(t, consumerWay.url)
	w := r.startWriters(t)
	for range 2 {
		r.progress(t)
		relayWay.swallow()
		relayWay.awaitSwallowed(t)
		relayWay.mend()
		r.progress(t)
		consumerWay.swallow()
		until(t, "the consumer acknowledges messages", func() bool { return consumerWay.swallowed.Load() > 20 }) // an AMQP ack has 21 bytes
		consumerWay.mend()
	}
	w.stop()
	r.caughtUp(t)
	spared(t, re, c)
	t.Logf("%d messages were published twice", repeats(r.settled(t)))
}
