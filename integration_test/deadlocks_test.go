package integration_test

import "testing"

// Writers lock their rows in no order, so that the server gives some of them up for
// others. What these had written is gone with its events, and nothing else is.
func TestWritersThatDeadlock(t *testing.T) {
	t.Parallel()
	for name, rigOf := range map[string]func(t *testing.T) *rig{
		"postgres": func(t *testing.T) *rig { t.Helper(); return newRig(t, account()) },
		"mariadb":  func(t *testing.T) *rig { t.Helper(); return newMariaDBRig(t, nil, account()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := rigOf(t)
			r.circles = true
			re := r.startRelay(t)
			c := r.startConsumer(t)
			w := r.startWriters(t)
			until(t, "writers deadlock", func() bool { return w.deadlocks.Load() >= 3 })
			r.progress(t)
			w.stop()
			r.caughtUp(t)
			spared(t, re, c)
			missedNone(t, c)
			t.Logf("%d transactions were deadlocked", w.deadlocks.Load())
			if n := repeats(r.settled(t)); n > 0 {
				t.Errorf("%d messages were published twice, want none", n)
			}
		})
	}
}
