package consumer

import (
	"cmp"
	"slices"
)

// carrier is a message, or what a round over a batch makes of one.
type carrier interface{ message() *incoming }

func (in *incoming) message() *incoming { return in }
func (b *bound) message() *incoming     { return b.in }
func (f failure) message() *incoming    { return f.in }

// overtaking knows which messages of a batch that is taken apart are stored by now, of
// the keys of SYNCs that overwrite a row of any revision. Such a SYNC is tried in its
// turn. When it has failed and a later message of its key is stored, it is stale: tried
// again, now or as a copy, it would write an older state over a newer one.
type overtaking map[foldKey][]settledMessage

// settledMessage is one that did not fail. It is stored, or was stale.
type settledMessage struct {
	in     *incoming
	stored bool
}

// watch prepares for a batch in its order of arrival. Most have no such SYNC, and
// nothing is noted.
func watch[T carrier](batch []T) overtaking {
	var o overtaking
	for i, one := range batch {
		in := one.message()
		in.place = i
		if in.always() {
			if o == nil {
				o = make(overtaking)
			}
			o[in.foldKey()] = nil
		}
	}
	return o
}

// note takes note of a message that is stored, because it was applied or is a
// duplicate, or is stale.
func (o overtaking) note(in *incoming, stored bool) {
	if noted, watched := o[in.foldKey()]; watched {
		o[in.foldKey()] = append(noted, settledMessage{in, stored})
	}
}

// revived returns the messages that were stale beside what a SYNC of theirs, which came
// before them but was applied after them, has lowered by now. They count as not settled.
func (r *result) revived() (again []*incoming) {
	for key, noted := range r.stored {
		var rest []settledMessage
		for i, one := range noted {
			if !one.stored && slices.ContainsFunc(noted[i+1:], func(later settledMessage) bool {
				return later.stored && later.in.always() && later.in.place < one.in.place && one.in.over(later.in)
			}) {
				again = append(again, one.in)
			} else {
				rest = append(rest, one)
			}
		}
		r.stored[key] = rest
	}
	r.stale -= len(again)
	slices.SortFunc(again, func(a, b *incoming) int { return cmp.Compare(a.place, b.place) })
	return again
}

// over reports whether a message would be applied over another one's row.
func (in *incoming) over(other *incoming) bool {
	v, _ := decide(state{row, other.Version}, in.change)
	return v.outcome == applied
}

// overtaken reports whether a message that is stored came after this SYNC and would
// have been stored over it. One that is stale beside it has not made it needless.
func (o overtaking) overtaken(in *incoming) bool {
	return in.always() && slices.ContainsFunc(o[in.foldKey()], func(later settledMessage) bool {
		return later.stored && later.in.place > in.place && later.in.over(in)
	})
}

// withoutOvertaken returns the messages that are not overtaken, and counts the others.
func withoutOvertaken[T carrier](r *result, all []T) []T {
	if len(r.stored) == 0 {
		return all
	}
	return slices.DeleteFunc(all, func(one T) bool {
		overtaken := r.stored.overtaken(one.message())
		if overtaken {
			r.stale++
		}
		return overtaken
	})
}

// settled ends a batch: what is overtaken has not failed.
func (r *result) settled() {
	r.failures = withoutOvertaken(r, r.failures)
}
