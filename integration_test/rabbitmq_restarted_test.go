package integration_test

import (
	"syscall"
	"testing"
)

// The broker is stopped, and later killed, while messages are on their way from
// and to it. What it has confirmed it still has afterwards.
func TestRabbitMQStoppedAndKilled(t *testing.T) {
	t.Parallel()
	n := newNode(t, "")
	r := newRigOn(t, nil, n, account())
	re := r.startRelay(t)
	c := r.startConsumer(t)
	w := r.startWriters(t)
	r.progress(t)
	n.ctl(t, "stop_app")
	r.outboxFills(t)
	n.ctl(t, "start_app")
	r.progress(t)
	n.stop(syscall.SIGKILL)
	r.outboxFills(t)
	n.start(t)
	r.progress(t)
	w.stop()
	r.caughtUp(t)
	spared(t, re, c)
	t.Logf("%d messages were published twice", repeats(r.settled(t)))
}
