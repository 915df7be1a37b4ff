package relay

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var testPolicy = policy{maxAttempts: 3, broadcast: Drop, direct: Retry}

type refusal struct{ permanent, unroutable bool }

func (r refusal) Error() string    { return "refused" }
func (r refusal) Permanent() bool  { return r.permanent }
func (r refusal) Unroutable() bool { return r.unroutable }

var errAway = errors.New("broker is away")

func rowsOf(key string, ids ...int64) (rows []row) {
	for _, id := range ids {
		rows = append(rows, row{id: id, topic: "account", unit: unit{"account", key, ""}})
	}
	return rows
}

func ids(rows []row) (all []int64) {
	for _, r := range rows {
		all = append(all, r.id)
	}
	return all
}

func wantIDs(t *testing.T, what string, want, have []int64) {
	t.Helper()
	if !slices.Equal(want, have) {
		t.Errorf("%s: %v, want %v", what, have, want)
	}
}

func TestRefusedMessageBlocksItsKeyOnly(t *testing.T) {
	t.Parallel()
	l, now := newLedger(), time.Now()
	batch := l.admit(slices.Concat(rowsOf("a", 1, 2), rowsOf("b", 3)))
	next := l.admit(rowsOf("a", 4)) // under way before the refusal is known
	s := l.settle(batch, []error{refusal{}, nil, nil}, testPolicy, now)
	wantIDs(t, "deleted after the refusal of 1", []int64{3}, s.done)
	if len(s.failed) != 1 || s.failed[0].row.id != 1 || s.failed[0].attempts != 1 {
		t.Errorf("failures %v, want the first attempt of 1", s.failed)
	}
	wantIDs(t, "deleted of the batch behind", nil, l.settle(next, nil, testPolicy, now).done)
	wantIDs(t, "admitted while a is blocked", []int64{6}, ids(l.admit(slices.Concat(rowsOf("a", 5), rowsOf("b", 6)))))

	due, _ := l.due(now.Add(time.Hour))
	wantIDs(t, "tried again", []int64{1}, due)
	retried := l.admit(again(rowsOf("a", 1)))
	l.asked(due, retried, nil)
	if due, _ := l.due(now.Add(time.Hour)); len(due) > 0 {
		t.Errorf("%v due while 1 is under way", due)
	}
	s = l.settle(retried, nil, testPolicy, now)
	wantIDs(t, "deleted when 1 went through", []int64{1}, s.done)
	wantIDs(t, "its failure is forgotten", []int64{1}, s.mended)
	due, _ = l.due(now)
	wantIDs(t, "sent again behind it, in order", []int64{2, 4, 5}, due)
	retried = l.admit(again(rowsOf("a", 2, 4, 5)))
	l.asked(due, retried, nil)
	wantIDs(t, "deleted then", []int64{2, 4, 5}, l.settle(retried, nil, testPolicy, now).done)
	wantIDs(t, "a is free", []int64{7}, ids(l.admit(rowsOf("a", 7))))
}

func again(rows []row) []row {
	for i := range rows {
		rows[i].retry = true
	}
	return rows
}

func TestRefusalInTheMiddleOfARetriedBatch(t *testing.T) {
	t.Parallel()
	l, now := newLedger(), time.Now()
	l.block(rowsOf("a", 1)[0], 0, now)
	l.admit(rowsOf("a", 2, 3))
	due, _ := l.due(now)
	retried := l.admit(again(rowsOf("a", 1, 2, 3)))
	l.asked(due, retried, nil)
	s := l.settle(retried, []error{nil, refusal{}, nil}, testPolicy, now)
	wantIDs(t, "deleted", []int64{1}, s.done)
	due, _ = l.due(now.Add(time.Hour))
	wantIDs(t, "tried again alone", []int64{2}, due)
}

// A row that appeared late, below the refused one of its key, is settled while the table is
// asked for that one, which is given up meanwhile. The key goes on with the late one.
func TestKeyGoesOnWhenALateRowIsSettledWhileItIsAskedFor(t *testing.T) {
	t.Parallel()
	l, now := newLedger(), time.Now()
	first, late := l.admit(rowsOf("a", 5)), l.admit(rowsOf("a", 3))
	l.settle(first, []error{refusal{}}, testPolicy, now)
	due, _ := l.due(now.Add(time.Hour))
	wantIDs(t, "asked for", []int64{5}, due)
	l.settle(late, nil, testPolicy, now)
	l.asked(due, nil, nil)
	due, _ = l.due(now.Add(time.Hour))
	wantIDs(t, "goes next", []int64{3}, due)
	l.asked(due, nil, nil)
	if l.blocks() {
		t.Error("the key waits for a row that is gone")
	}
}

func TestAttemptLimitAndPermanentRefusals(t *testing.T) {
	t.Parallel()
	l, now := newLedger(), time.Now()
	for attempt := 1; attempt <= 3; attempt++ {
		var rows []row
		if attempt == 1 {
			rows = l.admit(rowsOf("a", 1))
		} else {
			due, _ := l.due(now.Add(time.Hour))
			rows = l.admit(again(rowsOf("a", due...)))
			l.asked(due, rows, nil)
		}
		s := l.settle(rows, []error{refusal{}}, testPolicy, now)
		if dead := attempt == testPolicy.maxAttempts; (len(s.dead) == 1) != dead || (len(s.failed) == 1) == dead {
			t.Errorf("attempt %d: %d dead, %d failed", attempt, len(s.dead), len(s.failed))
		}
	}
	s := l.settle(l.admit(rowsOf("a", 2, 3)), []error{refusal{permanent: true}, nil}, testPolicy, now)
	if len(s.dead) != 1 || s.dead[0].row.id != 2 {
		t.Errorf("dead after a permanent refusal: %v, want 2", s.dead)
	}
	wantIDs(t, "the message behind a dead one goes on", []int64{3}, s.done)
}

func TestOutageSpendsNothing(t *testing.T) {
	t.Parallel()
	l := newLedger()
	rows := l.admit(slices.Concat(rowsOf("a", 1), rowsOf("b", 2), rowsOf("a", 3)))
	s := l.settle(rows, []error{errAway, nil, nil}, testPolicy, time.Now())
	wantIDs(t, "deleted: only what is confirmed with nothing unsure before it", []int64{2}, s.done)
	if !errors.Is(s.outage, errAway) || len(s.failed)+len(s.dead) > 0 {
		t.Errorf("outage %v, %d failed, %d dead", s.outage, len(s.failed), len(s.dead))
	}
}

func TestUnroutablePolicy(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		topic string
		p     policy
		want  outcome
	}{
		{"account", policy{broadcast: Drop, direct: Retry}, dropped},
		{"cqrs.billing.account", policy{broadcast: Drop, direct: Retry}, refused},
		{"account", policy{broadcast: Dead}, hopeless},
		{"account", policy{broadcast: Retry}, refused},
	} {
		if have := tt.p.judge(tt.topic, fmt.Errorf("publish: %w", refusal{unroutable: true})); have != tt.want {
			t.Errorf("%s under %+v: outcome %d, want %d", tt.topic, tt.p, have, tt.want)
		}
	}
}

func TestReadingAgainQueuesNothingTwice(t *testing.T) {
	t.Parallel()
	l, now := newLedger(), time.Now()
	l.settle(l.admit(rowsOf("a", 1)), []error{refusal{}}, testPolicy, now)
	l.admit(rowsOf("a", 2, 3))
	l.read(3)
	if !l.rewind() || l.readPosition() != 0 {
		t.Fatal("did not rewind although nothing is under way")
	}
	l.admit(rowsOf("a", 1, 2, 3, 4))
	if diff := cmp.Diff([]int64{1, 2, 3, 4}, l.blocked[unit{"account", "a", ""}].ids); diff != "" {
		t.Errorf("waiting (-want +have):\n%s", diff)
	}
	l.admit(rowsOf("b", 5))
	if l.rewind() {
		t.Error("rewound while a row is under way")
	}
}

func TestRowsPurgedWhileTheyWaited(t *testing.T) {
	t.Parallel()
	l, now := newLedger(), time.Now()
	l.settle(l.admit(rowsOf("a", 1)), []error{refusal{}}, testPolicy, now)
	l.admit(rowsOf("a", 2))
	due, _ := l.due(now.Add(time.Hour))
	l.asked(due, nil, errAway) // the database was away: nothing is known
	due, _ = l.due(now.Add(time.Hour))
	wantIDs(t, "asked again", []int64{1}, due)
	l.asked(due, nil, nil)
	due, _ = l.due(now.Add(time.Hour))
	wantIDs(t, "the next one moves up", []int64{2}, due)
	l.asked(due, nil, nil)
	if l.blockedKeys() != 0 {
		t.Error("a key without messages is still blocked")
	}
}

func TestGaps(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var g gaps
	want := func(want ...[2]int64) {
		t.Helper()
		var have [][2]int64
		for _, r := range g.ranges {
			have = append(have, [2]int64{r.low, r.high})
		}
		if diff := cmp.Diff(want, have); diff != "" {
			t.Errorf("gaps (-want +have):\n%s", diff)
		}
	}
	g.note(0, rowsOf("a", 5, 6, 9), now)
	g.note(9, rowsOf("a", 10, 12), now)
	want([2]int64{1, 4}, [2]int64{7, 8}, [2]int64{11, 11})
	g.found(rowsOf("a", 3, 7))
	want([2]int64{1, 2}, [2]int64{4, 4}, [2]int64{8, 8}, [2]int64{11, 11})
	g.settled(500, 600, now.Add(gapGrace/2)) // too young to know who may own them
	now = now.Add(gapGrace)
	g.settled(100, 130, now) // old enough: whoever may own them runs below 130
	g.settled(129, 140, now)
	want([2]int64{1, 2}, [2]int64{4, 4}, [2]int64{8, 8}, [2]int64{11, 11})
	g.note(12, rowsOf("a", 14), now)
	g.found(rowsOf("a", 8))
	g.settled(130, 150, now)
	want([2]int64{13, 13})
}

// The first message of a key that is moving again is purged: those behind it go on.
func TestFirstOfARetriedBatchPurged(t *testing.T) {
	t.Parallel()
	l, now := newLedger(), time.Now()
	l.block(rowsOf("a", 1)[0], 0, now)
	l.admit(rowsOf("a", 2, 3))
	due, _ := l.due(now)
	wantIDs(t, "due", []int64{1, 2, 3}, due)
	retried := l.admit(again(rowsOf("a", 2))) // 1 is gone; 3 was over the byte limit
	l.asked(due, retried, nil)
	wantIDs(t, "deleted", []int64{2}, l.settle(retried, nil, testPolicy, now).done)
	due, _ = l.due(now)
	wantIDs(t, "due then", []int64{3}, due)
}
