package integration_test

import (
	"strings"
	"testing"
	"time"
)

// The broker is away for a while. Relay and consumer say so once, ask for it seldom,
// and go on by themselves.
func TestBrokerAway(t *testing.T) {
	t.Parallel()
	for name, rigOf := range map[string]func(t *testing.T) *rig{
		"rabbitmq":  func(t *testing.T) *rig { t.Helper(); return newRig(t, account()) },
		"jetstream": func(t *testing.T) *rig { t.Helper(); return newNATSRig(t, newNATS(t), account()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rigOf(t).brokerAway(t)
		})
	}
}

func (r *rig) brokerAway(t *testing.T) {
	t.Helper()
	relayWay, consumerWay := newProxy(t, r.brokerURL), newProxy(t, r.brokerURL)
	re := r.startRelay(t, relayWay.url+"&confirm_timeout=3s")
	c := r.startConsumer(t, consumerWay.url)
	w := r.startWriters(t)
	r.progress(t)
	pauses := r.logs.says(paused)
	begun := relayWay.accepted.Load() + consumerWay.accepted.Load()
	relayWay.refuse()
	consumerWay.refuse()
	r.logs.await(t, paused, pauses)
	until(t, "both ask for the broker again", func() bool {
		return relayWay.accepted.Load()+consumerWay.accepted.Load() > begun+6
	})
	r.logs.quiet(t)
	said, asked, since := r.logs.text(), relayWay.accepted.Load()+consumerWay.accepted.Load(), time.Now()
	<-time.After(3 * time.Second)
	n := relayWay.accepted.Load() + consumerWay.accepted.Load() - asked
	if passed := time.Since(since); float64(n) > 10*passed.Seconds() {
		t.Errorf("they asked %d times for the broker in %v, want a few times", n, passed)
	}
	until(t, "they ask for the broker", func() bool {
		return relayWay.accepted.Load()+consumerWay.accepted.Load() > asked
	})
	if more := strings.TrimPrefix(r.logs.text(), said); more != "" {
		t.Errorf("they said it already, and say more:\n%s", more)
	}
	if n := r.logs.says(paused) - pauses; n != 1 {
		t.Errorf("the relay said %d times that it waits, want once", n)
	}
	relayWay.admit()
	consumerWay.admit()
	r.progress(t)
	w.stop()
	r.caughtUp(t)
	until(t, "what was handed out before the outage has come again", func() bool { return r.depth(t) == 0 })
	spared(t, re, c)
	t.Logf("%d messages were published twice", repeats(r.settled(t)))
}
