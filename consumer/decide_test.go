package consumer

import (
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/event"
)

// at returns a time n seconds into the tests' epoch.
func at(n int) time.Time {
	return time.Date(2026, 11, 22, 12, 0, 0, 123456000, time.UTC).Add(time.Duration(n) * time.Second)
}

func version(revision int64, second int) event.Version {
	return event.Version{Revision: revision, Updated: at(second)}
}

// decision is a line of the decision table.
type decision struct {
	name string
	have state
	in   change
	want verdict
	then state
}

// decisions is the decision table. Stored is revision 5 at second 50.
func decisions() []decision {
	rowStored, tombstoneStored := state{row, version(5, 50)}, state{tombstone, version(5, 50)}
	lockstep := func(signal event.Signal, revision int64, second int) change {
		return change{signal: signal, Version: version(revision, second)}
	}
	django := func(signal event.Signal, revision int64, second int) change {
		return change{signal: signal, Version: version(revision, second), restarts: true}
	}
	forced := func(revision int64, second int) change {
		return change{signal: event.Sync, Version: version(revision, second), force: true}
	}
	toRow := func(revision int64, second int) state { return state{row, version(revision, second)} }
	toTombstone := func(revision int64, second int) state { return state{tombstone, version(revision, second)} }
	return []decision{
		{"SAVE, nothing", state{}, lockstep(event.Save, 7, 70), verdict{}, toRow(7, 70)},
		{"SAVE of a first revision, nothing", state{}, django(event.Save, 0, 70), verdict{}, toRow(0, 70)},
		{"SAVE next, row", rowStored, lockstep(event.Save, 6, 60), verdict{}, toRow(6, 60)},
		{"SAVE next but older by the clock, row", rowStored, lockstep(event.Save, 6, 40), verdict{}, toRow(6, 40)},
		{"SAVE after a gap, row", rowStored, lockstep(event.Save, 9, 60), verdict{gap: true}, toRow(9, 60)},
		{"SAVE after the smallest gap, row", rowStored, lockstep(event.Save, 7, 60), verdict{gap: true}, toRow(7, 60)},
		{"SAVE equal, row", rowStored, lockstep(event.Save, 5, 50), verdict{outcome: duplicate}, rowStored},
		{"SAVE equal but newer by the clock, row", rowStored, lockstep(event.Save, 5, 60), verdict{outcome: duplicate}, rowStored},
		{"SAVE older, row", rowStored, lockstep(event.Save, 4, 60), verdict{outcome: stale}, rowStored},
		{"SAVE of a first revision from django-cqrs, row", rowStored, django(event.Save, 0, 60), verdict{outcome: stale}, rowStored},
		{"SAVE higher, tombstone", tombstoneStored, lockstep(event.Save, 6, 60), verdict{}, toRow(6, 60)},
		{"SAVE equal, tombstone", tombstoneStored, lockstep(event.Save, 5, 60), verdict{outcome: stale}, tombstoneStored},
		{"SAVE older, tombstone", tombstoneStored, lockstep(event.Save, 4, 60), verdict{outcome: stale}, tombstoneStored},
		{"SAVE of a first revision from Lockstep, tombstone", tombstoneStored, lockstep(event.Save, 0, 60), verdict{outcome: stale}, tombstoneStored},
		{"SAVE of a new first revision from django-cqrs, tombstone", tombstoneStored, django(event.Save, 0, 60), verdict{}, toRow(0, 60)},
		{"SAVE of an old first revision from django-cqrs, tombstone", tombstoneStored, django(event.Save, 0, 50), verdict{outcome: stale}, tombstoneStored},
		{"SAVE of a second revision from django-cqrs, tombstone", tombstoneStored, django(event.Save, 1, 60), verdict{outcome: stale}, tombstoneStored},

		{"SYNC, nothing", state{}, lockstep(event.Sync, 7, 70), verdict{}, toRow(7, 70)},
		{"SYNC higher, row", rowStored, lockstep(event.Sync, 9, 60), verdict{}, toRow(9, 60)},
		{"SYNC equal, row", rowStored, lockstep(event.Sync, 5, 50), verdict{}, toRow(5, 50)},
		{"SYNC older, row", rowStored, lockstep(event.Sync, 4, 60), verdict{outcome: stale}, rowStored},
		{"SYNC older but forced, row", rowStored, forced(4, 60), verdict{downgrade: true}, toRow(4, 60)},
		{"SYNC older from django-cqrs, row", rowStored, django(event.Sync, 4, 60), verdict{downgrade: true}, toRow(4, 60)},
		{"SYNC equal from django-cqrs, row", rowStored, django(event.Sync, 5, 50), verdict{}, toRow(5, 50)},
		{"SYNC higher, tombstone", tombstoneStored, lockstep(event.Sync, 6, 60), verdict{}, toRow(6, 60)},
		{"SYNC equal, tombstone", tombstoneStored, lockstep(event.Sync, 5, 60), verdict{outcome: stale}, tombstoneStored},
		{"SYNC older but forced, tombstone", tombstoneStored, forced(4, 60), verdict{outcome: stale}, tombstoneStored},
		{"SYNC of a new first revision from django-cqrs, tombstone", tombstoneStored, django(event.Sync, 0, 60), verdict{}, toRow(0, 60)},

		{"DELETE, nothing", state{}, lockstep(event.Delete, 7, 70), verdict{}, toTombstone(7, 70)},
		{"DELETE higher, row", rowStored, lockstep(event.Delete, 6, 60), verdict{}, toTombstone(6, 60)},
		{"DELETE higher but older by the clock, row", rowStored, lockstep(event.Delete, 6, 40), verdict{}, toTombstone(6, 50)},
		{"DELETE lower but newer by the clock, row", rowStored, django(event.Delete, 1, 60), verdict{}, toTombstone(5, 60)},
		{"DELETE equal, row", rowStored, lockstep(event.Delete, 5, 50), verdict{outcome: stale}, rowStored},
		{"DELETE older, row", rowStored, lockstep(event.Delete, 4, 40), verdict{outcome: stale}, rowStored},
		{"DELETE higher, tombstone", tombstoneStored, lockstep(event.Delete, 6, 60), verdict{}, toTombstone(6, 60)},
		{"DELETE lower but newer by the clock, tombstone", tombstoneStored, django(event.Delete, 1, 60), verdict{}, toTombstone(5, 60)},
		{"DELETE equal, tombstone", tombstoneStored, lockstep(event.Delete, 5, 50), verdict{outcome: duplicate}, tombstoneStored},
		{"DELETE older, tombstone", tombstoneStored, lockstep(event.Delete, 4, 40), verdict{outcome: stale}, tombstoneStored},
	}
}

func TestDecisionTable(t *testing.T) {
	t.Parallel()
	for _, d := range decisions() {
		have, then := decide(d.have, d.in)
		if have != d.want || then != d.then {
			t.Errorf("%s: have %+v, %+v, want %+v, %+v", d.name, have, then, d.want, d.then)
		}
	}
}
