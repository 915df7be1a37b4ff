package consumer

import (
	"context"
	"testing"
)

// TestGivenUpIsNamedOnce: a handler's event that is given up just as the run is over is
// one that it was not enough for, not two.
func TestGivenUpIsNamedOnce(t *testing.T) {
	t.Parallel()
	r := authorConsumer(t, SQLite, Config{}, logAuthor)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	d := newDispatcher(t.Context(), &runner{Consumer: r.Consumer, work: over})
	in := &incoming{msg: authorEvent("SAVE", 1, 1, "x")}
	d.busy[in] = true // a worker has it, and is not done with it yet
	d.giveUp(in)
	if left := d.wait(); len(left) != 1 {
		t.Errorf("%d events are left, want 1", len(left))
	}
}
