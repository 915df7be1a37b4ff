package jetstream

import (
	"testing"

	"github.com/nats-io/nats.go"
)

// Whoever sees that a message is in doubt can send nothing behind it: that is known before
// its call has an outcome. Said later, it would stop calls that have nothing to do with it.
func TestDoubtIsKnownBeforeItsOutcome(t *testing.T) {
	t.Parallel()
	c := newCall(1)
	told := false
	a := &acks{prefix: "reply.", window: 1, room: make(chan struct{}), doubt: func() {
		told = true
		select {
		case <-c.done:
			t.Error("the call had its outcome before its doubt was told")
		default:
		}
	}}
	if err := a.enroll(c); err != nil {
		t.Fatal(err)
	}
	if _, err := a.reserve(t.Context(), c, 0); err != nil {
		t.Fatal(err)
	}
	a.receive(&nats.Msg{Subject: "reply.0", Header: nats.Header{"Status": {"503"}}})
	if !told || !isOutage(c.errs[0]) {
		t.Errorf("the doubt was told: %v, the outcome is %v; want true and an outage", told, c.errs[0])
	}
}
