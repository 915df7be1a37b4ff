package consumer

import (
	"testing"
	"time"
)

// TestParkedSince: the oldest of those parked is told, whatever came first, and nothing
// when none is parked any more.
func TestParkedSince(t *testing.T) {
	t.Parallel()
	r, run := family(t, SQLite, time.Hour, nil, Table{RetryDelay: time.Hour})
	for _, step := range []struct {
		parent, revision int // of a leaf that is parked, or else a parent that comes
		parked           int64
		want             time.Time
	}{
		{1, 5, 1, at(5)},
		{2, 3, 2, at(3)},
		{3, 4, 3, at(3)},
		{2, 0, 2, at(4)},
		{1, 0, 1, at(4)},
		{3, 0, 0, time.Time{}},
	} {
		if step.revision > 0 {
			run.broker.deliver(leaf(step.parent, step.parent, step.revision))
		} else {
			run.broker.deliver(node(step.parent, 0))
		}
		eventually(t, "it is parked, or not any more", func() bool { return r.Stats().Parked == step.parked })
		if have := r.Stats().ParkedSince; !have.Equal(step.want) {
			t.Errorf("with %d parked: since %v, want %v", step.parked, have, step.want)
		}
	}
}
