package integration_test

import (
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/relay"
)

// A backlog of a few keys is sent collapsed: the replica ends as the master,
// although it has not seen every revision, and nothing that it has seen comes
// back when all comes again.
func TestCollapsedBacklogLeavesTheReplicaEqual(t *testing.T) {
	t.Parallel()
	for name, rigOf := range map[string]func(t *testing.T, entities ...entity) *rig{"postgres": newRig, "sqlite": newLocalRig} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := rigOf(t, account())
			r.startConsumer(t)
			w := r.startWriters(t)
			const backlog = 500
			if !eventually(t, func() bool { return w.ahead.Load() > backlog }) {
				t.Fatalf("the writers made %d events, want %d", w.ahead.Load(), backlog)
			}
			re := r.relay(t, r.brokerURL, relay.Config{Collapse: true, BatchSize: 100, Poll: 10 * time.Millisecond})
			sent := r.wire.count()
			if !eventually(t, func() bool { return r.wire.count() > sent+50 }) {
				t.Error("nothing is sent while the writers go on")
			}
			w.stop()
			r.checked = true // settled wants each revision
			r.caughtUp(t)
			r.stopAll(t)
			r.checkOutbox(t)
			r.checkRows(t, "after a collapsed backlog")
			events := r.wire.events(t)
			newest := map[string]int64{}
			for _, e := range events {
				if e.revision <= newest[e.row()] {
					t.Errorf("%s was published behind revision %d", e.version(), newest[e.row()])
				}
				newest[e.row()] = e.revision
			}
			for row, revision := range r.revisions(t) {
				if newest[row] != revision {
					t.Errorf("the last of %s on the wire is revision %d, want %d", row, newest[row], revision)
				}
			}
			if s := re.Stats(); s.Collapsed < backlog/2 || s.Published+s.Collapsed < w.ahead.Load() {
				t.Errorf("%d published and %d collapsed of %d", s.Published, s.Collapsed, w.ahead.Load())
			}
			r.replay(t, events)
			r.checkRows(t, "after all messages came again in another order")
		})
	}
}
