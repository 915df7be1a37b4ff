package consumer

import (
	"context"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/event"
)

// FuzzConsumer runs a whole consumer on arbitrary bodies: each message ends
// applied, ignored, or as one dead letter with a reason and the body it came
// with, and the next one is taken.
func FuzzConsumer(f *testing.F) {
	for model := range goldenTables {
		for _, m := range goldenMessages(f, model)[:2] {
			f.Add([]byte(m.Payload), false)
		}
	}
	for _, body := range append(hostile(), "", "5", "null", "[]", "\xff", `{"signal_type":"SAVE"}`, envelope("save", "account", "{}"), envelope("SAVE", "other", "{}")) {
		f.Add([]byte(body), true)
		f.Add([]byte(body), false)
	}
	r := newRig(f, SQLite, map[string]Table{"account": {Name: "account_ref", Columns: accountColumns, MaxRetries: 1, RetryDelay: time.Millisecond}}, accountTable)
	broker := newTestBroker()
	broker.requeue = true
	r.broker = broker
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	f.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			f.Errorf("Run: %v", err)
		}
	})
	f.Fuzz(func(t *testing.T, body []byte, fromLockstep bool) {
		before := r.Stats()
		known, unknown := len(broker.on(deadKnown)), len(broker.on(deadUnknown))
		m := message.NewMessage("", body)
		if fromLockstep {
			m.Metadata.Set(event.HeaderEventID, "x")
		}
		broker.deliver(m)
		eventually(t, "the message is settled", func() bool {
			s := r.Stats()
			acked, _ := broker.counts()
			return s.Received-before.Received == 1+s.Retried-before.Retried && int64(acked) == s.Received
		})
		s := r.Stats()
		ended := s.Applied + s.Duplicate + s.Stale + s.Dead - before.Applied - before.Duplicate - before.Stale - before.Dead
		if ended != 1 || s.Retried-before.Retried > 1 || s.Pauses > 0 {
			t.Errorf("have %+v, before %+v: want one end and no pause", s, before)
		}
		news := append(broker.on(deadKnown)[known:], broker.on(deadUnknown)[unknown:]...)
		if int64(len(news)) != s.Dead-before.Dead {
			t.Fatalf("%d dead letters, want %d", len(news), s.Dead-before.Dead)
		}
		for _, letter := range news {
			if letter.Metadata.Get(event.HeaderReason) == "" || letter.Metadata.Get(event.HeaderError) == "" {
				t.Errorf("a dead letter without a reason: %v", letter.Metadata)
			}
			if s.Retried == before.Retried && string(letter.Payload) != string(body) {
				t.Errorf("the dead letter's body is %q, want %q", letter.Payload, body)
			}
		}
	})
}

// Topics of dead letters.
const (
	deadKnown   = "cqrs.dead_letter_replica.account"
	deadUnknown = "cqrs.dead_letter_replica.unknown"
)
