package consumer

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// world is what is stored for a key, with the message that each column's value
// came from.
type world struct {
	state
	columns [2]int
}

// applyAlone is what one message does.
func applyAlone(w world, in *incoming, id int) world {
	v, then := decide(w.state, in.change)
	if v.outcome != applied {
		return w
	}
	return w.write(then, in, id)
}

func (w world) write(then state, in *incoming, id int) world {
	next := world{state: then}
	if then.presence == row {
		if w.presence == row {
			next.columns = w.columns
		}
		for i := range next.columns {
			if in.writes(i) {
				next.columns[i] = id
			}
		}
	}
	return next
}

// applyStep is what PostgreSQL's statements do with a step.
func applyStep(w world, s *step, id int) world {
	if s.deletes() {
		v, then := decide(w.state, change{signal: event.Delete, Version: s.version})
		if v.outcome != applied {
			return w
		}
		return w.write(then, s.in, id)
	}
	ok := true
	switch w.presence {
	case row:
		switch s.guard {
		case dialect.Newer:
			ok = s.version.Revision > w.Revision
		case dialect.NotOlder:
			ok = s.version.Revision >= w.Revision
		case dialect.Always:
		}
	case tombstone:
		ok = max(s.pass, s.version.Revision) > w.Revision || !s.first.IsZero() && s.first.After(w.Updated)
	case nothing:
	}
	if !ok {
		return w
	}
	return w.write(state{row, s.version}, s.in, id)
}

// messagesOf returns every kind of message with revisions and times below the bounds.
func messagesOf(revisions, seconds int) []*incoming {
	to := &replica{Replica: dialect.Replica{Columns: make([]dialect.Column, 2)}}
	var all []*incoming
	for r := range revisions {
		for s := range seconds {
			for _, c := range []change{
				{signal: event.Save},
				{signal: event.Save, restarts: true},
				{signal: event.Sync},
				{signal: event.Sync, restarts: true},
				{signal: event.Sync, force: true},
				{signal: event.Delete},
			} {
				c.Version = version(int64(r), s)
				full := &incoming{to: to, key: "1", change: c, values: make([][]byte, to.slots())}
				full.values[slotColumn], full.values[slotColumn+1] = []byte("1"), []byte("2")
				all = append(all, full)
				if c.signal != event.Delete {
					part := *full
					part.values = make([][]byte, to.slots())
					part.values[slotColumn] = []byte("1")
					part.absent = "\x01\x00"
					all = append(all, &part)
				}
			}
		}
	}
	return all
}

// worldsOf returns everything that may be stored.
func worldsOf(revisions, seconds int) []world {
	all := []world{{}}
	for r := range revisions {
		for s := range seconds {
			all = append(all, world{state{row, version(int64(r), s)}, [2]int{-1, -1}}, world{state: state{tombstone, version(int64(r), s)}})
		}
	}
	return all
}

// requireSame folds a sequence and compares with applying it one by one.
func requireSame(t *testing.T, sequence []*incoming, worlds []world) {
	t.Helper()
	ids := make(map[*incoming]int, len(sequence))
	copies := make([]*incoming, len(sequence)) // one message may stand twice
	for i, in := range sequence {
		c := *in
		copies[i] = &c
		ids[&c] = i
	}
	rounds := fold(copies)
	for _, start := range worlds {
		want, have := start, start
		for _, in := range copies {
			want = applyAlone(want, in, ids[in])
		}
		for _, round := range rounds {
			if len(round) != 1 {
				t.Fatalf("a round holds %d steps of one key", len(round))
			}
			have = applyStep(have, round[0], ids[round[0].in])
		}
		if have != want {
			t.Fatalf("%s\nonto %+v:\nhave %+v\nwant %+v", describe(copies), start, have, want)
		}
	}
}

func describe(sequence []*incoming) string {
	text := ""
	for i, in := range sequence {
		text += fmt.Sprintf("%d: %s revision %d second %d restarts %t force %t absent %q\n", i, in.signal, in.Revision,
			int(in.Updated.Sub(at(0)).Seconds()), in.restarts, in.force, in.absent)
	}
	return text
}

// TestFoldEveryPair proves that folding two messages is the same as applying
// them one after the other, for all kinds of messages and all that may be stored.
func TestFoldEveryPair(t *testing.T) {
	t.Parallel()
	all, worlds := messagesOf(4, 4), worldsOf(4, 4)
	for _, a := range all {
		for _, b := range all {
			requireSame(t, []*incoming{a, b}, worlds)
		}
	}
}

func TestFoldLongerSequences(t *testing.T) {
	t.Parallel()
	all, worlds := messagesOf(4, 4), worldsOf(5, 5)
	random := rand.New(rand.NewPCG(1, 2))
	for range 40_000 {
		sequence := make([]*incoming, 3+random.IntN(6))
		for i := range sequence {
			sequence[i] = all[random.IntN(len(all))]
		}
		requireSame(t, sequence, worlds)
	}
}

// TestFoldSaves: the usual case needs one statement and knows its gaps.
func TestFoldSaves(t *testing.T) {
	t.Parallel()
	to := &replica{Replica: dialect.Replica{}}
	tests := []struct {
		name      string
		revisions []int64
		written   int64
		base      int64
		held      int64
		gaps      int
	}{
		{"one", []int64{3}, 3, 2, 2, 0},
		{"one after a gap", []int64{5}, 5, 4, 2, 1},
		{"in order", []int64{3, 4, 5}, 5, 2, 2, 0},
		{"out of order", []int64{5, 3, 4}, 5, 2, 2, 0},
		{"repeated", []int64{3, 3, 4, 4}, 4, 2, 2, 0},
		{"gaps within", []int64{3, 5, 8}, 8, 7, 2, 2},
		{"from further below", []int64{4, 5}, 5, 3, 2, 1},
	}
	for _, tc := range tests {
		var batch []*incoming
		for _, r := range tc.revisions {
			batch = append(batch, &incoming{to: to, key: "1", change: change{signal: event.Save, Version: version(r, int(r))}, values: make([][]byte, slotColumn)})
		}
		rounds := fold(batch)
		if len(rounds) != 1 || len(rounds[0]) != 1 {
			t.Fatalf("%s: have %d rounds, want 1 of 1 step", tc.name, len(rounds))
		}
		s := rounds[0][0]
		if s.version.Revision != tc.written || s.base() != tc.base || s.gaps(tc.held) != tc.gaps || s.superseded != len(batch)-1 {
			t.Errorf("%s: have revision %d, base %d, %d gaps, %d superseded, want %d, %d, %d, %d", tc.name,
				s.version.Revision, s.base(), s.gaps(tc.held), s.superseded, tc.written, tc.base, tc.gaps, len(batch)-1)
		}
	}
}
