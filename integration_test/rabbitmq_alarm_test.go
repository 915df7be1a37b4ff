package integration_test

import "testing"

// A broker that runs out of memory takes no messages, for longer than the relay
// waits for a confirmation, and hands on those it has.
func TestRabbitMQBlockedByMemoryAlarm(t *testing.T) {
	t.Parallel()
	n := newNode(t, "")
	r := newRigOn(t, nil, n, account())
	re := r.startRelay(t, r.brokerURL+"&confirm_timeout=1s")
	c := r.startConsumer(t)
	w := r.startWriters(t)
	r.progress(t)
	n.ctl(t, "set_vm_memory_high_watermark", "0.00001")
	r.logs.await(t, "publishing is blocked by the server", 0)
	r.logs.await(t, paused, 0)
	r.outboxFills(t)
	until(t, "the consumer empties its queue", func() bool { return r.depth(t) == 0 })
	n.ctl(t, "set_vm_memory_high_watermark", "0.4")
	r.progress(t)
	w.stop()
	r.caughtUp(t)
	spared(t, re, c)
	t.Logf("%d messages were published twice", repeats(r.settled(t)))
}

// paused is what a relay says when the broker or the database is away.
const paused = "paused: the outbox keeps what is pending"
