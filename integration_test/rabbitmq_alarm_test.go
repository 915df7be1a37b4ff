package integration_test

import (
	"context"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/outbox"
)

// A broker that runs out of memory takes no messages, for longer than the relay
// waits for a confirmation, and hands on those it has.
func TestRabbitMQBlockedByMemoryAlarm(t *testing.T) {
	t.Parallel()
	n := newNode(t, "")
	r := newRigOn(t, nil, n, account())
	re := r.startRelay(t, r.brokerURL+"&confirm_timeout=3s") // the alarm is heard sooner
	c := r.startConsumer(t)
	w := r.startWriters(t)
	r.progress(t)
	seen := r.logs.says(paused) // a node that is slow for the timeout is an outage, too
	n.ctl(t, "set_vm_memory_high_watermark", "0.00001")
	r.logs.await(t, "publishing is blocked by the server", 0)
	r.logs.await(t, paused, seen)
	r.outboxFills(t)
	until(t, "the consumer empties its queue", func() bool { return r.depth(t) == 0 })
	if said := r.logs.says(paused) - seen; said != 1 {
		t.Errorf("the relay said %d times that it waits, want once", said)
	}
	n.ctl(t, "set_vm_memory_high_watermark", "0.4")
	r.progress(t)
	w.stop()
	r.caughtUp(t)
	spared(t, re, c)
	t.Logf("%d messages were published twice", repeats(r.settled(t)))
}

// Messages that nobody can read are to become dead letters while the broker takes none:
// they stay in the queue, one line tells of it, and others are applied.
func TestDeadLettersBlockedByMemoryAlarm(t *testing.T) {
	t.Parallel()
	n := newNode(t, "")
	r := newRigOn(t, nil, n, account())
	re := r.startRelay(t)
	const garbage = 20
	for range garbage {
		m := message.NewMessage(watermill.NewUUID(), []byte("garbage"))
		if err := r.control.Publish(event.DirectTopic(r.queue, r.id("account")), m); err != nil {
			t.Fatal(err)
		}
	}
	r.do(t, func(ctx context.Context, tx *outbox.Tx) error { return r.put(ctx, tx, 1, "behind the garbage") })
	until(t, "all is in the queue", func() bool { return r.depth(t) == garbage+1 })
	n.ctl(t, "set_vm_memory_high_watermark", "0.00001")
	c := r.startConsumer(t, r.brokerURL+"&confirm_timeout=2s")
	r.caughtUp(t)
	r.logs.await(t, notTaken, 0)
	<-time.After(2 * time.Second)
	if said, dead := r.logs.says(notTaken), c.Stats().Dead; said != 1 || dead > 0 {
		t.Errorf("it was said %d times that dead letters are not taken, and %d were, want 1 and 0", said, dead)
	}
	n.ctl(t, "set_vm_memory_high_watermark", "0.4")
	until(t, "the dead letters are stored", func() bool { return c.Stats().Dead == garbage })
	if s := c.Stats(); s.Retried > 0 || s.Stuck > 0 || re.Stats().Refused > 0 {
		t.Errorf("%+v, want no retries and nothing stuck", s)
	}
	// What was sent before the alarm was noticed comes through, too.
	if r.wantDead = len(r.dead.all(t)); r.wantDead < garbage || r.wantDead > 2*garbage {
		t.Errorf("%d dead letters, want %d and at most as many again", r.wantDead, garbage)
	}
	r.settled(t)
}

// notTaken is what a consumer says when it cannot set a message apart.
const notTaken = "the broker does not take a retry or dead letter"

// paused is what a relay says when the broker or the database is away.
const paused = "paused: the outbox keeps what is pending"
