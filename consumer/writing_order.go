package consumer

import (
	"slices"

	"github.com/lockstep-go/lockstep/event"
)

// putOff leaves to the end, in the order of arrival, what came after a deletion that
// is left to the end itself and may refer to the deleted row: where the database
// deletes or changes the rows that refer to a deleted one, it would do so to this
// one, which is about the row made anew.
func (w *writing) putOff(batch []*bound) []*bound {
	late := lateDeletions(batch)
	if len(late) == 0 {
		return batch
	}
	rest := make([]*bound, 0, len(batch))
	for _, b := range batch {
		if b.unkeyed == nil && b.comesAfter(late) {
			w.again = append(w.again, b)
		} else {
			rest = append(rest, b)
		}
	}
	return rest
}

// lateDeletions returns the place of each table's first deletion that will be left to
// the end: its row is made anew in the batch, or its key is no plain one.
func lateDeletions(batch []*bound) map[*replica]int {
	var late map[*replica]int
	var deleted map[foldKey]int
	for _, b := range batch {
		key, place := foldKey{b.in.to.entity, b.in.key}, b.place
		before, again := deleted[key]
		switch deletes := b.in.signal == event.Delete; {
		case b.unkeyed != nil || deletes && b.plain && again || !deletes && !again:
			continue
		case deletes && b.plain:
			if deleted == nil {
				deleted = make(map[foldKey]int)
			}
			deleted[key] = place
			continue
		case !deletes:
			place = before
		}
		if late == nil {
			late = make(map[*replica]int)
		}
		if first, ok := late[b.in.to]; !ok || place < first {
			late[b.in.to] = place
		}
	}
	return late
}

// comesAfter reports whether a message came after one of the deletions, and its row
// may refer to a row of that table, perhaps by way of others.
func (b *bound) comesAfter(late map[*replica]int) bool {
	for to, place := range late {
		if b.place > place && b.in.to.dependsOn(to, make(map[*replica]bool)) {
			return true
		}
	}
	return false
}

// setAside reports whether rows are left to the end. A deletion that takes other rows
// along must not overtake them then: one may be about to leave the deleted row.
func (w *writing) setAside() bool {
	return slices.ContainsFunc(w.again, func(b *bound) bool { return b.in.signal != event.Delete })
}

// dependsOn reports whether rows may refer to those of another replica, perhaps by way
// of others. Where a foreign key leads to something else than a replica's key, that is
// taken for possible.
func (r *replica) dependsOn(other *replica, seen map[*replica]bool) bool {
	seen[r] = true
	for _, p := range r.parents {
		if p.to == nil || p.to == other || !seen[p.to] && p.to.dependsOn(other, seen) {
			return true
		}
	}
	return false
}

// inOrder reports whether the order of arrival counts among tables, too: a row is made
// anew in the batch after its deletion, or one is deleted that takes others along.
func inOrder(batch []*incoming) bool {
	deleted := make(map[foldKey]bool)
	for _, in := range batch {
		key := in.foldKey()
		if in.signal == event.Delete {
			if in.to.sweeps {
				return true
			}
			deleted[key] = true
		} else if deleted[key] {
			return true
		}
	}
	return false
}

// turned returns messages that failed in the opposite order, for the next round: where
// each takes what the next one gives up, or refers to it, one a round would pass in the
// order they failed in. The order stays where it counts: with deletions, and with
// several messages of a key.
func turned[T carrier](failed []T) []T {
	keys := make(map[foldKey]bool, len(failed))
	for _, one := range failed {
		in := one.message()
		key := in.foldKey()
		if keys[key] || in.signal == event.Delete {
			return failed
		}
		keys[key] = true
	}
	slices.Reverse(failed)
	return failed
}
