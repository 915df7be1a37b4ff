package consumer

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/event"
)

// history makes the events of a few keys as a master would send them.
type history struct {
	*rand.Rand
	clock    int
	messages []*message.Message
	// rows is the master's table at the end: key to what a replica's row shows.
	rows map[int]string
}

func newHistory(seed uint64) *history {
	return &history{Rand: rand.New(rand.NewPCG(seed, 7)), rows: map[int]string{}}
}

func (h *history) send(from func(body string) *message.Message, signal event.Signal, data string, headers ...string) {
	m := from(envelope(string(signal), "account", data))
	for i := 0; i < len(headers); i += 2 {
		m.Metadata.Set(headers[i], headers[i+1])
	}
	h.messages = append(h.messages, m)
}

// lockstepLike: revisions grow by one with each event and never restart.
func (h *history) lockstepLike(key, events int) {
	alive := false
	for revision := 1; revision <= events; revision++ {
		h.clock++
		if alive && h.IntN(4) == 0 {
			alive = false
			delete(h.rows, key)
			h.send(lockstep, event.Delete, fmt.Sprintf(`{"id":%d,%s}`, key, versionJSON(int64(revision), at(h.clock))))
			continue
		}
		alive = true
		name := fmt.Sprintf("name %d of %d", revision, key)
		data := fmt.Sprintf(`{"id":%d,"name":%q,"note":"n",%s}`, key, name, versionJSON(int64(revision), at(h.clock)))
		h.send(lockstep, event.Save, data)
		if h.IntN(5) == 0 {
			h.send(lockstep, event.Sync, data)
		}
		h.rows[key] = fmt.Sprintf("cqrs_revision=%d cqrs_updated=%s id=%d note=n title=%s", revision, event.FormatTime(at(h.clock)), key, name)
	}
}

// djangoLike: revisions restart at 0, messages differ in their fields, and
// anything may be sent again as a SYNC, forced or not.
func (h *history) djangoLike(key, events int) {
	revision := -1
	for n := range events {
		h.clock++
		revision++
		var headers []string
		from, signal := django, event.Save
		switch {
		case revision > 0 && h.IntN(4) == 0:
			h.send(django, event.Delete, fmt.Sprintf(`{"id":"%d",%s}`, key, versionJSON(int64(revision), at(h.clock))))
			revision = -1
			continue
		case h.IntN(6) == 0:
			signal = event.Sync
		case h.IntN(8) == 0:
			from, signal, headers = lockstep, event.Sync, []string{event.HeaderForce, "1"}
		case h.IntN(8) == 0:
			from = lockstep
		}
		note := fmt.Sprintf(`"note":"note %d",`, n)
		if h.IntN(4) == 0 {
			note = ""
		}
		data := fmt.Sprintf(`{"id":%d,"name":"name %d of %d",%s%s}`, key, n, key, note, versionJSON(int64(revision), at(h.clock)))
		h.send(from, signal, data, headers...)
	}
}

// deliver shuffles the messages within a window and repeats some.
func (h *history) deliver(window int) []*message.Message {
	out := slices.Clone(h.messages)
	for range len(out) / 4 {
		out = append(out, out[h.IntN(len(out))].Copy())
	}
	for i := range out {
		j := min(len(out)-1, i+h.IntN(window))
		out[i], out[j] = out[j], out[i]
	}
	return out
}

// cut applies messages in batches of random size.
func (r *rig) cut(t *testing.T, random *rand.Rand, messages []*message.Message, largest int) tally {
	t.Helper()
	var total tally
	for len(messages) > 0 {
		n := min(len(messages), 1+random.IntN(largest))
		res := r.batch(t, messages[:n]...)
		if len(res.failures) > 0 {
			t.Fatal(res.failures[0].err)
		}
		total.add(res.tally)
		messages = messages[n:]
	}
	return total
}

func (r *rig) empty(t *testing.T) {
	t.Helper()
	mustExec(t, r.db, "DELETE FROM account_ref")
	mustExec(t, r.db, "DELETE FROM replica_tombstones")
}

// TestRandomLockstepHistories: whatever the order and however often messages
// arrive, the replica ends as the master's table is.
func TestRandomLockstepHistories(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		r := accountRig(t, d)
		for seed := range uint64(40) {
			r.empty(t)
			h := newHistory(seed)
			for key := range 5 {
				h.lockstepLike(key, 3+h.IntN(12))
			}
			messages := h.deliver([]int{1, 4, len(h.messages)}[seed%3])
			total := r.cut(t, h.Rand, messages, 40)

			want := []string{}
			for _, line := range h.rows {
				want = append(want, line)
			}
			slices.Sort(want)
			have := dump(t, r.db, "SELECT cqrs_revision, cqrs_updated, id, note, title FROM account_ref")
			if diff := cmp.Diff(want, have); diff != "" {
				t.Fatalf("seed %d: the replica is not the master (-master +replica):\n%s", seed, diff)
			}
			if sum := total.applied + total.duplicate + total.stale + total.superseded; sum != len(messages) {
				t.Errorf("seed %d: %+v counts %d messages, want %d", seed, total, sum, len(messages))
			}
		}
	})
}

// TestRandomDjangoHistories: batches of any size, on both databases, end where
// applying the same messages one by one ends.
func TestRandomDjangoHistories(t *testing.T) {
	t.Parallel()
	rigs := map[Dialect]*rig{Postgres: accountRig(t, Postgres), MySQL: accountRig(t, MySQL), SQLite: accountRig(t, SQLite)}
	for seed := range uint64(40) {
		h := newHistory(seed)
		for key := range 4 {
			h.djangoLike(key, 4+h.IntN(14))
		}
		messages := h.deliver([]int{1, 6, len(h.messages)}[seed%3])
		ends := map[string]string{}
		for d, r := range rigs {
			for name, largest := range map[string]int{"one by one": 1, "small batches": 8, "large batches": 100} {
				r.empty(t)
				r.cut(t, h.Rand, messages, largest)
				ends[fmt.Sprintf("%s, %s", d, name)] = strings.Join(r.stored(t), "\n")
			}
		}
		want := ends["sqlite, one by one"]
		if want == "" {
			t.Fatal("nothing was stored")
		}
		for name, have := range ends {
			if diff := cmp.Diff(want, have); diff != "" {
				t.Fatalf("seed %d: %s (-one by one +have):\n%s", seed, name, diff)
			}
		}
	}
}
