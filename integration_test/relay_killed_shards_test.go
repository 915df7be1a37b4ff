package integration_test

import (
	"fmt"
	"testing"
)

// Two relays share an outbox by its shards, and one is killed, again and again: the other
// takes its shards, and no key gets out of its order.
func TestShardedRelaysKilled(t *testing.T) {
	t.Parallel()
	r := newRig(t, account())
	r.startConsumer(t)
	w := r.startWriters(t)
	start := func() *outside {
		return r.startProcess(t, r.masterDSN, r.brokerURL, "run", "--lease", "1s", "--shards", "4")
	}
	const held = " FROM outbox_leases WHERE shards = 4 AND expires_at > clock_timestamp()"
	relays := []*outside{start(), start()}
	for i := range 3 {
		until(t, "both relays work", func() bool {
			return number(t, r.master, "SELECT count(*)"+held) == 4 && number(t, r.master, "SELECT count(DISTINCT holder)"+held) == 2
		})
		r.progress(t)
		relays[i%2].kill(t)
		heir := fmt.Sprintf("%%/%d/%%", relays[1-i%2].cmd.Process.Pid)
		until(t, "one relay works on all shards", func() bool { return number(t, r.master, "SELECT count(*)"+held+" AND holder LIKE $1", heir) == 4 })
		r.progress(t)
		relays[i%2] = start()
	}
	w.stop()
	t.Logf("%d messages were published twice", repeats(r.settled(t)))
}
