package relay

import (
	"slices"
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/event"
)

// direct is a SYNC of key a to one queue.
func direct(id int64, queue string) row {
	return placed(id, event.DirectTopic(queue, "account"), `{"`+event.HeaderQueue+`":"`+queue+`"}`)
}

func forced(id int64) row { return placed(id, "account", `{"`+event.HeaderForce+`":"1"}`) }

func placed(id int64, topic, metadata string) row {
	r := row{id: id, topic: topic}
	r.unit, r.forced = place(topic, "a", []byte(metadata))
	return r
}

// turn tries again what is due, with an answer for each id; nil for the others.
func (l *ledger) turn(t *testing.T, what string, now time.Time, all map[int64]row, want []int64, answers map[int64]error) settlement {
	t.Helper()
	due, _ := l.due(now)
	wantIDs(t, what, want, due)
	var rows []row
	var errs []error
	for _, id := range due {
		rows, errs = append(rows, all[id]), append(errs, answers[id])
	}
	rows = l.admit(again(rows))
	l.asked(due, rows, nil)
	return l.settle(rows, errs, testPolicy, now)
}

func byID(rows ...row) map[int64]row {
	all := map[int64]row{}
	for _, r := range rows {
		all[r.id] = r
	}
	return all
}

var noQueue = refusal{unroutable: true}

func TestRefusedDirectMessageHoldsUpNoOthers(t *testing.T) {
	t.Parallel()
	l, now := newLedger(), time.Now()
	first := l.admit([]row{direct(1, "typo"), rowsOf("a", 2)[0], direct(3, "billing"), direct(4, "typo")})
	s := l.settle(first, []error{noQueue, nil, nil, nil}, testPolicy, now)
	wantIDs(t, "deleted beside the refused one", []int64{2, 3}, s.done)
	more := []row{rowsOf("a", 5)[0], direct(6, "typo"), direct(7, "billing")}
	wantIDs(t, "sent then", []int64{5, 7}, ids(l.admit(more)))
	if n := l.waitingRows(); n != 3 {
		t.Errorf("%d rows wait, want 3", n)
	}
	all := byID(direct(1, "typo"), direct(4, "typo"), direct(6, "typo"))
	now = now.Add(time.Hour)
	s = l.turn(t, "tried again alone", now, all, []int64{1}, nil)
	wantIDs(t, "deleted", []int64{1}, s.done)
	s = l.turn(t, "those behind it", now, all, []int64{4, 6}, nil)
	wantIDs(t, "deleted", []int64{4, 6}, s.done)
	if len(l.blocked)+len(l.directs) > 0 {
		t.Errorf("left in the ledger: %v, %v", l.blocked, l.directs)
	}
}

// A forced SYNC lowers a row whenever it comes: it waits for the others and the others for it.
func TestForcedMessageKeepsItsPlace(t *testing.T) {
	t.Parallel()
	l, now := newLedger(), time.Now()
	batch := l.admit([]row{direct(1, "typo"), forced(2), rowsOf("a", 3)[0], direct(4, "billing")})
	s := l.settle(batch, []error{noQueue, nil, nil, nil}, testPolicy, now)
	wantIDs(t, "deleted past the refused one", nil, s.done)
	wantIDs(t, "admitted behind the forced one", nil, ids(l.admit([]row{rowsOf("a", 5)[0], direct(6, "typo")})))
	all := byID(direct(1, "typo"), forced(2), rowsOf("a", 3)[0], direct(4, "billing"), rowsOf("a", 5)[0], direct(6, "typo"))
	now = now.Add(time.Hour)
	l.turn(t, "tried again", now, all, []int64{1}, map[int64]error{1: noQueue})
	now = now.Add(time.Hour)
	l.turn(t, "tried a third time, and dead", now, all, []int64{1}, map[int64]error{1: noQueue})
	s = l.turn(t, "all behind it, in order", now, all, []int64{2, 3, 4, 5, 6}, map[int64]error{4: noQueue})
	wantIDs(t, "deleted", []int64{2, 3, 5, 6}, s.done)
	if len(s.failed) != 1 || s.failed[0].row.id != 4 || s.failed[0].attempts != 1 {
		t.Errorf("failures %v, want the first attempt of 4", s.failed)
	}
	wantIDs(t, "sent while 4 waits", []int64{7}, ids(l.admit(rowsOf("a", 7))))
}

// A forced SYNC is not deleted past a direct one that was refused in the same retried batch.
func TestForcedMessageBehindOneRefusedAgain(t *testing.T) {
	t.Parallel()
	l, now := newLedger(), time.Now()
	l.block(rowsOf("a", 1)[0], 0, now)
	l.admit([]row{direct(2, "typo"), forced(3), rowsOf("a", 4)[0]})
	all := byID(rowsOf("a", 1)[0], direct(2, "typo"), forced(3), rowsOf("a", 4)[0])
	s := l.turn(t, "tried again", now, all, []int64{1, 2, 3, 4}, map[int64]error{2: noQueue})
	wantIDs(t, "deleted", []int64{1}, s.done)
	now = now.Add(time.Hour)
	s = l.turn(t, "then", now, all, []int64{2}, nil)
	wantIDs(t, "deleted", []int64{2}, s.done)
	s = l.turn(t, "at last", now, all, []int64{3, 4}, nil)
	wantIDs(t, "deleted", []int64{3, 4}, s.done)
}

// A refused broadcast holds up direct messages of its key, and reading the table
// again puts none into two queues.
func TestRefusedBroadcastHoldsUpDirectMessages(t *testing.T) {
	t.Parallel()
	l, now := newLedger(), time.Now()
	l.block(direct(2, "typo"), 1, now.Add(time.Hour))
	l.block(rowsOf("a", 1)[0], 1, now)
	rows := []row{rowsOf("a", 1)[0], direct(2, "typo"), direct(3, "billing")}
	for range 2 {
		wantIDs(t, "admitted", nil, ids(l.admit(slices.Clone(rows))))
	}
	if n := l.waitingRows(); n != 3 {
		t.Errorf("%d rows wait, want 3", n)
	}
	s := l.turn(t, "tried again", now, byID(rows...), []int64{1}, nil)
	wantIDs(t, "deleted", []int64{1}, s.done)
	s = l.turn(t, "behind it", now, byID(rows...), []int64{3}, nil)
	wantIDs(t, "deleted", []int64{3}, s.done)
}

// What other programs send on a topic of that form need not be decided by revision.
func TestForeignDirectMessageKeepsItsPlace(t *testing.T) {
	t.Parallel()
	l := newLedger()
	foreign := placed(1, event.DirectTopic("typo", "account"), `{}`)
	l.settle(l.admit([]row{foreign}), []error{noQueue}, testPolicy, time.Now())
	wantIDs(t, "admitted behind it", nil, ids(l.admit(rowsOf("a", 2))))
}
