package outbox

import (
	"testing"
	"time"
)

// A pool that renews its connections all the time leaves no trail of dead ones.
func TestRememberedSessionsAreBounded(t *testing.T) {
	t.Parallel()
	all := sessions{known: map[any]*prepared{}}
	now := time.Now()
	lasting := new(int)
	want := all.find(lasting, now)
	for range 10 * maxSessions {
		now = now.Add(time.Millisecond)
		all.find(new(int), now)
		if all.find(lasting, now) != want {
			t.Fatal("a session that is in use is forgotten")
		}
	}
	if have := len(all.known); have > maxSessions {
		t.Errorf("%d sessions are remembered, want %d at most", have, maxSessions)
	}
	now = now.Add(2 * sessionLife)
	all.find(lasting, now)
	if have := len(all.known); have != 1 {
		t.Errorf("%d sessions are remembered after a long pause, want the last one", have)
	}
}
