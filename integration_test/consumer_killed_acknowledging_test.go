package integration_test

import (
	"context"
	"strings"
	"testing"

	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/outbox"
)

// A consumer dies between its commit and the acknowledgement: the messages come again,
// and change nothing.
func TestConsumerKilledBetweenCommitAndAcknowledgement(t *testing.T) {
	t.Parallel()
	r := newRig(t, account())
	way := newProxy(t, r.brokerURL)
	r.startRelay(t)
	c := r.startConsumerProcess(t, way.url)
	until(t, "the consumer has its subscription", func() bool { return r.consumers(t) == 1 })
	way.swallow() // from now on no acknowledgement arrives
	r.lastWord(t)
	r.caughtUp(t) // so it has committed
	c.kill(t)
	way.mend()
	until(t, "the messages are in the queue again", func() bool { return r.depth(t) == writersKeys })
	next := r.startConsumer(t)
	until(t, "they come again", func() bool { return next.Stats().Duplicate >= writersKeys })
	next.stop(t)
	if s := next.Stats(); s.Duplicate != writersKeys || s.Applied > 0 || s.Retried+s.Dead > 0 {
		t.Errorf("of %d messages that came again %d were duplicates and %d applied, want all duplicates: %+v", writersKeys, s.Duplicate, s.Applied, s)
	}
	if n := r.depth(t); n > 0 {
		t.Errorf("%d of them are in the queue still, want none", n)
	}
	r.settled(t)
}

// A consumer dies when the broker has stored its copy of a message that does not fit,
// here as a dead letter, and it has not heard of that: the message comes again, is set
// apart again, and none is lost.
func TestConsumerKilledBetweenCopyAndAcknowledgement(t *testing.T) {
	t.Parallel()
	narrow := account()
	narrow.columns[1].refType = "varchar(20) NOT NULL"
	narrow.retries = consumer.NoRetries
	r := newRig(t, narrow)
	way := newProxy(t, r.brokerURL)
	r.startRelay(t)
	c := r.startConsumerProcess(t, way.url)
	const misfit = 7
	tooLong := strings.Repeat("long ", 10)
	unlock := r.lockReplica(t)
	r.do(t, func(ctx context.Context, tx *outbox.Tx) error { return r.put(ctx, tx, misfit, tooLong) })
	r.awaitWaiting(t)
	way.deafen() // from now on it hears of no confirmation
	unlock()
	until(t, "the dead letter is stored", func() bool { return r.dead.count() == 1 })
	c.kill(t)
	way.mend()
	until(t, "the message is in the queue again", func() bool { return r.depth(t) == 1 })
	r.startConsumerProcess(t)
	until(t, "the dead letter is stored again", func() bool { return r.dead.count() == 2 })
	if all := r.dead.all(t); len(all) != 2 || all[0].UUID != all[1].UUID {
		t.Errorf("dead letters %v, want the same one twice", all)
	}
	r.do(t, func(ctx context.Context, tx *outbox.Tx) error { return r.put(ctx, tx, misfit, "short enough") })
	r.wantDead = 2
	r.unfit = func(w wired) bool { return strings.Contains(string(w.msg.Payload), tooLong) }
	r.settled(t)
}
