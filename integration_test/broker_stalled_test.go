package integration_test

import "testing"

// The way to the broker stops reading and closes nothing. The relay gives up its
// connection after the time it waits for a confirmation, and others that stall
// too; what they had sent may come through in the end, behind newer messages.
func TestBrokerThatStalls(t *testing.T) {
	t.Parallel()
	r := newRig(t, account())
	r.echoes = true
	relayWay, consumerWay := newProxy(t, r.brokerURL), newProxy(t, r.brokerURL)
	re := r.startRelay(t, relayWay.url+"&confirm_timeout=3s&connection_timeout=5000")
	c := r.startConsumer(t, consumerWay.url)
	w := r.startWriters(t)
	for range 2 {
		re.publishes(t)
		seen, accepted := r.logs.says(paused), relayWay.accepted.Load()
		relayWay.stall()
		until(t, "the relay sends messages", func() bool { return relayWay.held.Load() > 0 })
		looks := 0
		until(t, "the relay holds no transaction open while it waits for the broker", func() bool {
			given := r.logs.says(paused) > seen // before the look
			if given && looks > 10 {
				t.Fatal("the relay gives up waiting for the broker and has held a transaction open all the time")
			}
			looks++
			// Where the machine halted for the timeout nothing was seen of that time.
			return given || number(t, r.master, inTransaction, r.suffix+"_relay") == 0
		})
		r.logs.await(t, paused, seen)
		until(t, "the relay tries two more connections", func() bool { return relayWay.accepted.Load() >= accepted+2 })
		relayWay.flow()
		re.publishes(t)
		consumerWay.stall()
		until(t, "the consumer acknowledges messages", func() bool { return consumerWay.held.Load() > 20 })
		r.progress(t)
		consumerWay.flow()
	}
	w.stop()
	r.caughtUp(t)
	spared(t, re, c)
	t.Logf("%d messages were published twice", repeats(r.settled(t)))
}

// inTransaction counts a service's connections that hold a transaction open and do
// nothing in it.
const inTransaction = `SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND state LIKE 'idle in transaction%'`
