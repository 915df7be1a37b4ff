package integration_test

import (
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Somebody deletes the replica's queue while it is used. What was in it is gone,
// which no relay can know; the consumer makes the queue anew, and every account
// that is saved after that is right again.
func TestQueueDeletedAndMadeAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, account())
	r.startRelay(t)
	r.startConsumer(t)
	w := r.startWriters(t)
	for range 3 {
		r.progress(t)
		r.admin.do(t, func(ch *amqp.Channel) error {
			_, err := ch.QueueDelete(r.queue, false, false, false)
			return err
		})
		before := r.newest(t)
		until(t, "the consumer applies messages again", func() bool { return r.newest(t) > before+2 })
	}
	w.stop()
	r.lastWord(t)
	r.settled(t)
}
