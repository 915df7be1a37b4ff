package integration_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/event"
)

// What a consumer holds in memory does not grow with its queue: its prefetch count and
// its batch bound it. LOCKSTEP_TEST_QUEUE sets the length of the long queue.
func TestConsumerMemoryDoesNotGrowWithTheQueue(t *testing.T) {
	t.Parallel()
	long := 30_000
	if text := os.Getenv("LOCKSTEP_TEST_QUEUE"); text != "" {
		var err error
		if long, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	const short = 3000 // three times the prefetch count, so that it is reached
	r := newRig(t, account())
	r.checked = true // there is no master
	peak := func(messages int) int64 {
		r.fillQueue(t, messages)
		unlock := r.lockReplica(t) // so that the broker could send ahead, if it may
		c := r.startConsumerProcess(t)
		r.awaitWaiting(t)
		<-time.After(2 * time.Second)
		unlock()
		for left := messages; left > 0; {
			until(t, "the queue becomes shorter", func() bool {
				now := r.depth(t)
				shorter := now < left || now == 0
				left = now
				return shorter
			})
		}
		r.lastOfQueue(t)
		kib := c.peakMemory(t)
		c.stop(t)
		execute(t, r.replica, "DELETE FROM account_ref; DELETE FROM replica_tombstones")
		return kib
	}
	few, many := peak(short), peak(long)
	t.Logf("%d KiB resident at most with %d messages, %d KiB with %d", few, short, many, long)
	if many > few*3/2 {
		t.Errorf("the consumer took %d KiB for %d messages and %d KiB for %d, want hardly more", few, short, many, long)
	}
}

// fillQueue puts accounts' first events into the replica's queue, a kilobyte each.
func (r *rig) fillQueue(t *testing.T, messages int) {
	t.Helper()
	e, note := r.entities[0], strings.Repeat("x", 1000)
	const atOnce = 1000
	var waiting []func(context.Context) []error
	settle := func(rest int) {
		for len(waiting) > rest {
			if err := errors.Join(waiting[0](t.Context())...); err != nil {
				t.Fatal(err)
			}
			waiting = waiting[1:]
		}
	}
	for first := 0; first < messages; first += atOnce {
		topics, part := make([]string, atOnce), make([]*message.Message, atOnce)
		for i := range part {
			ev := event.Event{Signal: event.Save, CQRSID: e.id, Key: fmt.Append(nil, first+i), Data: fmt.Appendf(nil,
				`{"id":%d,"name":"of a long queue","balance":1,"note":%q,"cqrs_revision":1,"cqrs_updated":%q}`,
				first+i, note, event.FormatTime(time.Now()))}
			topics[i] = event.DirectTopic(r.queue, e.id)
			part[i] = message.NewMessage(watermill.NewUUID(), ev.AppendJSON(nil))
		}
		waiting = append(waiting, r.control.PublishAsync(t.Context(), topics, part))
		settle(2)
	}
	settle(0)
}

// peakMemory returns the most that the process had resident, in KiB.
func (p *outside) peakMemory(t *testing.T) (kib int64) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatalf("%v\nthis test reads /proc: run it on Linux", err)
	}
	_, rest, found := strings.Cut(string(status), "VmHWM:")
	if _, err := fmt.Sscan(rest, &kib); !found || err != nil {
		t.Fatalf("no VmHWM in /proc: %v", err)
	}
	return kib
}
