package integration_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// Of two relays the one that works dies. Then the other is frozen until its lease
// has run out, with messages on the way that arrive behind those of its successor;
// when it wakes, it stands by.
func TestOwnerKilledThenFrozen(t *testing.T) {
	t.Parallel()
	r := newRig(t, account())
	r.echoes = true
	r.startConsumer(t)
	w := r.startWriters(t)
	relays := map[*outside]*proxy{}
	start := func() {
		way := newProxy(t, r.brokerURL)
		relays[r.startRelayProcess(t, way.url)] = way
	}
	start()
	start()
	r.progress(t)
	killed, term := r.owner(t, relays)
	killed.kill(t)
	delete(relays, killed)
	frozen, term := r.nextOwner(t, relays, term)
	start()
	r.progress(t)

	relays[frozen].stall()
	until(t, "the relay sends messages", func() bool { return relays[frozen].held.Load() > 0 })
	frozen.signal(t, syscall.SIGSTOP)
	successor, term := r.nextOwner(t, relays, term)
	r.progress(t)
	relays[frozen].flow()
	frozen.signal(t, syscall.SIGCONT)
	frozen.logs.await(t, "lease lost, standing by", 0)
	r.progress(t)

	successor.kill(t)
	delete(relays, successor)
	if next, _ := r.nextOwner(t, relays, term); next != frozen {
		t.Error("the relay that was frozen does not take over")
	}
	r.progress(t)
	w.stop()
	t.Logf("%d messages were published twice", repeats(r.settled(t)))
}

// owner returns the relay that works, and its term.
func (r *rig) owner(t *testing.T, relays map[*outside]*proxy) (*outside, int64) {
	t.Helper()
	return r.nextOwner(t, relays, 0)
}

// nextOwner waits for one with a later term.
func (r *rig) nextOwner(t *testing.T, relays map[*outside]*proxy, term int64) (owner *outside, next int64) {
	t.Helper()
	until(t, "a relay takes over", func() bool {
		for _, line := range lines(t, r.master, fmt.Sprintf("SELECT term, holder FROM outbox_leases WHERE term > %d", term)) {
			now, holder, _ := strings.Cut(line, separator)
			for re := range relays {
				if strings.Contains(holder, fmt.Sprintf("/%d/", re.cmd.Process.Pid)) {
					owner = re
					_, _ = fmt.Sscan(now, &next)
				}
			}
		}
		return owner != nil
	})
	return owner, next
}
